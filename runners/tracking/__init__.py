"""Metrics and their names, trackers, the terminal, memory."""
