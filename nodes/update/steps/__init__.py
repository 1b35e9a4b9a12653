"""Losses and optimiser steps: batches, learning-rate schedules, rows of other peers."""
