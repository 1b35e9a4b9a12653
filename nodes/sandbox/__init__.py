"""Run Python that nobody trusts, in bubblewrap: `run_python` is the only way to run the code of a model."""
