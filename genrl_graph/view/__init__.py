"""The live page of runs: a local server, the page that it serves, its frozen form, and runs in notebooks."""
