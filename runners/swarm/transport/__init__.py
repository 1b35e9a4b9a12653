"""Libp2p and the DHT: daemon, streams, identity, signatures, limits."""
