"""Play a graph: `play.py` opens a run, `session.py` goes from round to round, `loop/` plays one round."""
