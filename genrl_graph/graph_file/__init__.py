"""The YAML spelling of a graph: parse, compose, override, read, dump, JSON Schema."""
