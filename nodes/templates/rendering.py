"""Render Jinja templates, which may come from strangers, in bounded time, memory and output.

A sandbox keeps a template from files and code, not from endless loops or `'a' * 10 ** 10`. Templates whose cost is
known to be small are rendered in this process, all others in a worker process, which is killed at its limits.
"""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal

from jinja2 import TemplateError

from genrl_graph.nodes.templates import renderers
from genrl_graph.nodes.templates.cost import has_bounded_cost
from genrl_graph.nodes.worker.worker import WorkerError, WorkerRaised, WorkerTimeout
from genrl_graph.nodes.worker.worker_main import OUT_OF_MEMORY
from genrl_graph.nodes.worker.worker_pool import shared_pool

TIMEOUT_S = 10.0
"""Seconds that a template may take."""
MEMORY_BYTES = 2**29
"""Bytes that a template may use, beyond those of the process that renders it."""
MOST_CHARACTERS = 2**23
"""Most characters that a template may give."""
MOST_SOURCE = 2**18
"""Most characters of a template."""


class TemplateFailed(Exception):
    """A template raised an error, or is not valid; the text says which."""


class TemplateTooCostly(TemplateFailed):
    """A template exceeded a limit."""


def render(kind: Literal["prompt", "chat"], source: str, values: Mapping[str, object]) -> str:
    """Render the template of a prompt or the chat template of a model, whose chat is `messages`.

    Values are JSON and dataclasses of it. Raises `TemplateFailed`, and of these `TemplateTooCostly` at a limit.
    """
    if len(source) > MOST_SOURCE:
        raise TemplateTooCostly(f"the template has {len(source)} characters, of {MOST_SOURCE} at most")
    values = {name: _plain(value) for name, value in values.items()}
    if not has_bounded_cost(source, values):
        return _render_in_worker(kind, source, values)
    try:
        return renderers.RENDERERS[kind](source, values)
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise TemplateFailed(_reason(type(error).__name__, str(error))) from error


def _render_in_worker(kind: str, source: str, values: Mapping[str, object]) -> str:
    factory = {"kind": kind, "memory_bytes": MEMORY_BYTES, "most_characters": MOST_CHARACTERS}
    pool = shared_pool(f"{renderers.__file__}:limited", TIMEOUT_S, factory=json.dumps(factory))
    try:
        return str(pool.workers[0].call([source, values], {}))
    except WorkerTimeout as error:
        raise TemplateTooCostly(f"it takes more than {error.limit_s:g} s; loop less") from error
    except WorkerRaised as error:
        if error.type_name == OUT_OF_MEMORY:
            raise TemplateTooCostly(f"it takes more than {MEMORY_BYTES >> 20} MiB; write less") from error
        raise TemplateFailed(_reason(error.type_name, error.message)) from error
    except WorkerError as error:
        raise TemplateFailed(str(error)) from error


def _reason(type_name: str, message: str) -> str:
    """Return the text of an error; a plain `TemplateError` is the template's own, which says all."""
    return message if type_name == TemplateError.__name__ else f"{type_name}: {message}"


def _plain(value: object) -> Any:
    """Return a value as JSON has it."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return [_plain(element) for element in value] if isinstance(value, list) else value
