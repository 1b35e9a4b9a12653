"""The reference of the command line, read from its argument parser."""

import argparse
from collections.abc import Iterable, Iterator

from genrl_graph.cli import command_parser
from genrl_graph.docs.markdown import code, code_block, in_cell, table

WIDTH = 78


def command_index() -> str:
    """Return the table of all commands, with links to their sections."""
    rows = [(f"[`{name}`](#{_anchor(name)})", in_cell(help)) for name, _, help in _commands(command_parser())]
    return table(("Command", "What it does"), rows)


def commands_reference() -> str:
    """Return one section a command: what it does, its usage, its arguments and options."""
    return "\n".join(_section(*command) for command in _commands(command_parser()))


def _commands(parser: argparse.ArgumentParser, prefix: str = "") -> Iterator[tuple[str, argparse.ArgumentParser, str]]:
    """Yield the name, parser and help of every command; of one with actions, such as `swarm`, those of the actions."""
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
        for name, inner in action.choices.items():
            deeper = list(_commands(inner, f"{prefix}{name} "))
            yield from deeper or [(prefix + name, inner, helps.get(name, ""))]


def _section(name: str, parser: argparse.ArgumentParser, help: str) -> str:
    usage = argparse.HelpFormatter(parser.prog, width=WIDTH)
    usage.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups, prefix="")
    parts = [f"## {name} {{: #{_anchor(name)} }}", _sentence(help), code_block(usage.format_help().strip(), "text")]
    for group in parser._action_groups:
        if actions := [action for action in group._group_actions if not isinstance(action, argparse._HelpAction)]:
            title = group.title or ""
            if title not in ("positional arguments", "options"):
                parts.append(f"**{title[:1].upper()}{title[1:]}**")
            head = "Argument" if title == "positional arguments" else "Option"
            parts.append(table((head, "Meaning"), _rows(actions)))
    return "\n\n".join(parts)


def _rows(actions: Iterable[argparse.Action]) -> Iterator[tuple[str, str]]:
    for action in actions:
        formatter = argparse.HelpFormatter("")
        names = action.option_strings or [formatter._format_action_invocation(action)]
        value = ""
        if action.option_strings and action.nargs != 0:
            value = f" {formatter._format_args(action, formatter._get_default_metavar_for_optional(action))}"
        spelled = ", ".join(code(f"{name}{value}") for name in names)
        yield spelled, in_cell(formatter._expand_help(action) if action.help else "")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") or not text else ".")


def _anchor(name: str) -> str:
    return name.replace(" ", "-")
