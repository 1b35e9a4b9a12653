"""Probe a model when it is loaded: compare each way of calling it with plain transformers on a small random twin."""
