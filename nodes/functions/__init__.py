"""Functions that a graph names: how they are named, which a graph file may name, and how they are called."""
