"""Advantage nodes: turn the rewards of rows into advantages."""
