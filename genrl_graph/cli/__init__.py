"""The command line: one file a group of commands."""

from genrl_graph.cli.command_line import main, run_command

__all__ = ["main", "run_command"]
