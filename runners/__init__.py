"""Play a graph: `opening.py` opens a run, `session.py` plays its rounds, `loop/` plays one; `play.py` does it all."""
