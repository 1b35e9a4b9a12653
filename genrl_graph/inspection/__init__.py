"""What the commands `runs`, `rollouts`, `lineage` and `rows` print of a stored run."""
