"""Turn rows into scores: extract answers, call functions, check their return values."""
