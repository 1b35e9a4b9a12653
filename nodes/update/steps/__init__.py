"""Losses and optimiser steps: batches, schedules of the learning rate, external rows."""
