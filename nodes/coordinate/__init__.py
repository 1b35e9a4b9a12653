"""Coordinate nodes: what a round reports to a contract, if the run names one."""
