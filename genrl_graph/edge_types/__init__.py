"""What travels on edges: typed frames, their marks, the rules for rows of other peers."""
