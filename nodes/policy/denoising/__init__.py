"""Diffusion policies: their interface, the mathematics of a denoising step, their networks, their live policy."""
