"""Where numbers go: metrics and their names, trackers, the terminal, memory."""
