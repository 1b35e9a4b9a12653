"""Runs of several seeds, compared: means and intervals over runs, paired differences, tables and pictures."""
