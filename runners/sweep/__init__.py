"""Many runs of one graph: settings crossed with seeds, each cell a process with an ordinary run folder."""
