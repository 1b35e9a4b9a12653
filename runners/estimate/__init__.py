"""Estimate what a run will take: rehearse, measure, multiply."""
