"""Seat players, play episodes, and make rows of their steps."""
