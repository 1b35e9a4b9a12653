"""From rows to scores: extract answers, call functions, read what they return."""
