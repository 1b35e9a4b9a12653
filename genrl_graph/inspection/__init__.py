"""Views of stored runs for the commands `runs`, `rollouts`, `lineage` and `rows`."""
