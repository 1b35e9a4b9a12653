"""Fill prompt templates, quote rollouts in them, and turn completions into rows."""
