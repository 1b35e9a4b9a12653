"""Generators: completions of chats and episodes of games."""
