"""Run the command line: `python -m genrl_graph` is the same as `genrl-graph`."""

from genrl_graph.cli import main

if __name__ == "__main__":
    main()
