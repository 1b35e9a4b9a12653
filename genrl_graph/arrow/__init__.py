"""Arrow helpers that know nothing about games: casts, types as JSON, flat arrays, sums per row."""
