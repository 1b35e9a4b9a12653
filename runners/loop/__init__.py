"""One round of the peers of this process: steps, background steps, budgets, runners."""
