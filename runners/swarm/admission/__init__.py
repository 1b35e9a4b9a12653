"""The rules by which rows of another peer are admitted."""
