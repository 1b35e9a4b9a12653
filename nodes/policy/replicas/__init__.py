"""A policy whose weights are sharded over the ranks of a group, which all compute for it."""
