"""The command line: one file per group of commands."""

from genrl_graph.cli.command_line import command_parser, main, run_command

__all__ = ["command_parser", "main", "run_command"]
