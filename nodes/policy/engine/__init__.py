"""Engines: servers that sample in place of a policy, with its weights."""
