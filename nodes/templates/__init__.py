"""Render Jinja templates of graph files and models in bounded time, memory and output."""
