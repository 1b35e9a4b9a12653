"""Swarm sampling: peers train on their own and on others' rollouts (arXiv 2509.08721)."""
