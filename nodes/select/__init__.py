"""Select nodes: keep some of the rows."""
