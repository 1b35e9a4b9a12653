"""Selects: which rows go on."""
