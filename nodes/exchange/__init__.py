"""Exchange nodes: share rows with the other peers of a round."""
