"""Edge types: typed frames of rows, the marks on them, and the checks of rows from other peers."""
