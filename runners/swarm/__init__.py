"""The swarm runner: roster, offers and exchanges of peers that join and leave at any time."""
