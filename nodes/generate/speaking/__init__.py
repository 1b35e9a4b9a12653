"""Seats of dialogues: their chats, their players, the episodes that they play, and the rows of their turns."""
