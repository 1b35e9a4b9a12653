"""Sample from language models and train them: handles, batches, attention, log-probs, weights."""
