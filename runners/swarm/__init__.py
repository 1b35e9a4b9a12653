"""Peers that come and go: roster, offers, open exchanges."""
