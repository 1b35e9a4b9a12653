"""`python -m genrl_graph` is `genrl-graph`."""

from genrl_graph.cli import main

if __name__ == "__main__":
    main()
