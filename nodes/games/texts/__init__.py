"""Small games in text that the library ships, for dialogues on a laptop."""
