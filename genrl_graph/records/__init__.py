"""What is stored of each step, how outputs are rebuilt from it, and whether all of a run is there."""
