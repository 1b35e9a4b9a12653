"""Assign players to seats, play episodes, and turn their steps into rows."""
