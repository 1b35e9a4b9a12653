"""Frames as bytes between peers, read as if the sender were hostile."""
