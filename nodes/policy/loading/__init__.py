"""Load models and tokenizers: pretrained, GGUF, packages, checkpoints of runs, stubs."""
