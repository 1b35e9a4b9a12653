"""What a node, a carry and a policy are, and the registry of their types."""
