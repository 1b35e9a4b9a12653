"""Who executes a schedule: one loop (`round.py`), and the ways in which peers meet."""
