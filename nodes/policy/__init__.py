"""Policies: the models that a graph carries from round to round."""
