"""The contract of nodes, carries and policies, and the registry of their types."""
