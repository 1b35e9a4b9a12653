"""Commands that look at a run: what ran, its rollouts, where one came from, its rows. They import no framework."""
