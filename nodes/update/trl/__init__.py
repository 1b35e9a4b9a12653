"""Train with the trainers of TRL."""
