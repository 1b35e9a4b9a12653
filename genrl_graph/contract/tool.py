"""The contract of tools: declared parts of a generator whose functions a language model may call in its turns."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar

from genrl_graph.contract.declared import Declared
from genrl_graph.contract.signature import method_of, read_hints
from genrl_graph.errors import NodeError

Function = Callable[..., object]


class ToolBroken(Exception):
    """Raised by a tool that cannot work here: it fails the episode, where other errors are messages to the model."""


class ToolError(Exception):
    """Raised by a tool for what the model is to be shown as it stands; errors are counted by `kind`."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Tool(Declared, kind="tool"):
    """Gives functions that a language model may call in its turns; `generate.dialogue` names tools in `tools`.

    The function is `run`: its name is that of the type, and the model sees its type hints and its docstring, in the
    form of Google with a line for each argument. Define `functions` for several, or for those that keep a state. What a
    function returns is shown to the model as text, and so is an error that it raises. Set `parallel` if calls of
    several episodes may run at the same time, in threads of their own; the tool then has to keep its own time limit.
    """

    parallel: ClassVar[bool] = False

    def functions(self) -> Mapping[str, Function]:
        """Return the functions by name for one seat of one episode: what they keep is forgotten with it."""
        run: Function = self.run  # type: ignore[attr-defined]
        return {self.type_name.partition(".")[2]: run}

    def prepare(self) -> None:
        """Load what may be missing or broken; called once, before a policy is created."""

    def check_data(self) -> Iterable[str]:
        """Return what is missing on this machine, one line each, for the command `check`."""
        return ()

    @classmethod
    def _read_contract(cls) -> None:
        if cls.functions is not Tool.functions:
            return
        missing = "a tool has a method `run`, or `functions`"
        run = method_of(cls, "run", cls.type_name, missing=missing)
        hints = read_hints(cls.type_name, run)
        for name in list(inspect.signature(run).parameters)[1:]:
            if name not in hints:
                raise NodeError(f"{cls.type_name}.run: {name!r} has no type, which the model is told; annotate it")
        if not inspect.getdoc(run):
            raise NodeError(f"{cls.type_name}.run: has no docstring, which the model is told; write one")
