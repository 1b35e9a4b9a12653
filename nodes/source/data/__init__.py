"""Read, shuffle and hold out the rows from which sources make tasks."""
