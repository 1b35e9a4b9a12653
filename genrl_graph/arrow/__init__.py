"""Pyarrow helpers that know nothing of games: casts, types as JSON, flat arrays, sums per row."""
