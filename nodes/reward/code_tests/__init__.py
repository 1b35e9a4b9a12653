"""Tests of code that nobody trusts: the code runs in one sandbox, what judges it in another one or in this process."""
