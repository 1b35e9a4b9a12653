"""Pictures of a game: one neutral model (`picture.py`), and one module for each format that it is drawn in."""
