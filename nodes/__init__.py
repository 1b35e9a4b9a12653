"""The node and carry types that ship with the package, one folder per kind."""
