"""Run TRL's trainers on a live policy."""
