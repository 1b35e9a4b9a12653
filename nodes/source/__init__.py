"""Sources: where the tasks of a round come from."""
