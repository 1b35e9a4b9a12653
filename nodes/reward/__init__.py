"""Rewards: what each row earns."""
