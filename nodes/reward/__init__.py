"""Reward nodes: score each row."""
