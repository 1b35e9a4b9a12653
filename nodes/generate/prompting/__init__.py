"""Fill prompts, quote rollouts in them, and make rows of completions."""
