"""Play an edited graph over stored rollouts."""
