"""Exchanges: rows of all peers of a round."""
