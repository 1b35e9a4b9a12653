"""Advantages: the credit that each row gets for its reward."""
