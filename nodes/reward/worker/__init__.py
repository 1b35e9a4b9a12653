"""Run reward functions in worker processes with time and memory limits."""
