"""Run functions in worker processes with limits of time, memory and output."""
