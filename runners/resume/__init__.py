"""Checkpoints, and how an interrupted run goes on."""
