"""Environments of gymnasium and PettingZoo behind one interface."""
