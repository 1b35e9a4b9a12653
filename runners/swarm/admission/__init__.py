"""Admission: the checks on rows that another peer sends."""
