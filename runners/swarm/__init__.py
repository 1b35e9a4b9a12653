"""The transport of the swarm: identity, one libp2p daemon, a signed roster on the DHT, bounded streams."""
