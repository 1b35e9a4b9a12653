"""Every type that ships is registered, has a one-line summary, and lists its params."""

import inspect

import pytest

from genrl_graph.cli.types import describe_type
from genrl_graph.contract import registry
from genrl_graph.nodes import library


def shipped() -> list[str]:
    return [name for name, cls in registry.types().items() if cls.__module__.startswith("genrl_graph.nodes.")]


def test_the_library_names_every_shipped_class() -> None:
    assert {getattr(library, name).type_name for name in library.__all__} == set(shipped())
    assert len(shipped()) >= 20


@pytest.mark.parametrize("name", shipped())
def test_each_type_is_documented(name: str) -> None:
    cls = registry.types()[name]
    first = (inspect.getdoc(cls) or "").partition("\n")[0]
    assert first.endswith((".", ":", '".')) and len(first) <= 120
    described = describe_type(name)
    assert name in described
    assert all(param in described for param in cls.model_fields)
