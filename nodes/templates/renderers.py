"""Render templates without limits, in this process or in a worker, which therefore loads nothing else of ours."""

import resource
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
"""Jinja for prompts: an unknown variable is an error."""

Render = Callable[[str, Mapping[str, Any]], str]


def render_prompt(source: str, values: Mapping[str, Any]) -> str:
    """Render the template of a graph file."""
    return _compiled(source).render(values)


@lru_cache(maxsize=64)
def _compiled(source: str) -> Template:
    return _ENVIRONMENT.from_string(source)


def render_chat(source: str, values: Mapping[str, Any]) -> str:
    """Render the chat template of a model as transformers does; `messages` is the chat."""
    from transformers.utils.chat_template_utils import render_jinja_template

    options = {name: value for name, value in values.items() if name != "messages"}
    (text,), _ = render_jinja_template(conversations=[values["messages"]], chat_template=source, **options)
    return str(text)


RENDERERS: Mapping[str, Render] = {"prompt": render_prompt, "chat": render_chat}


def limited(kind: str, memory_bytes: int, most_characters: int) -> Render:
    """Return a renderer for a worker process: its memory is limited once what it needs is loaded, and its output."""
    if kind == "chat":
        import transformers.utils.chat_template_utils  # noqa: F401  # before a template has little time
    _limit_memory(memory_bytes)

    def render(source: str, values: Mapping[str, Any]) -> str:
        text = RENDERERS[kind](source, values)
        if len(text) > most_characters:
            raise ValueError(f"it gives {len(text)} characters, of {most_characters} at most")
        return text

    return render


def _limit_memory(more: int) -> None:
    """Limit the address space to what is in use and `more` bytes, where the system says how much that is."""
    statistics = Path("/proc/self/statm")
    if statistics.exists():
        limit = int(statistics.read_text().split()[0]) * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
