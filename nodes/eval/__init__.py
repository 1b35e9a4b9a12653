"""Evals: what a policy is worth, measured in evaluations only."""
