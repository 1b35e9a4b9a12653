"""The shipped graph files, found by name; `tiny` is the Python twin of tiny.yaml."""
