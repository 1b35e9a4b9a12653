"""Source nodes: provide the tasks of a round."""
