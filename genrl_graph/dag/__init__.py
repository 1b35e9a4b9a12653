"""A game as a graph: build, infer types, check, find hazards, compile to a schedule."""
