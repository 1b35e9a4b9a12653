"""Graphs as YAML files: parse, compose, override, read, dump, JSON Schema."""
