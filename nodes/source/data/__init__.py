"""Read, shuffle and hold out the rows that sources make tasks of."""
