"""Code that two policies write for each other: tasks, and programs that solve them."""
