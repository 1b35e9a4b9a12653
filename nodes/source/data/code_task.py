"""Tasks whose answer is a program: the tests that it must pass, and what runs before them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from genrl_graph.edge_types.task import Task
from genrl_graph.errors import DataError
from genrl_graph.messages import short
from genrl_graph.seeds import digest

TEXTS = ("setup", "prompt", "suffix", "entry_point", "reference")
FORM = "a test is code that calls the program's functions, or {input: ..., output: ...}"


@dataclass(frozen=True, slots=True)
class CodeTest:
    """One test: code that calls functions of the program, or a standard input and the output that it must give."""

    code: str = ""
    input: str = ""
    output: str | None = None


@dataclass(frozen=True, slots=True)
class CodeTask:
    """Tests of a program, all with code or all with input and output.

    `setup` runs before each test that is code. `prompt` is code that the answer goes on with, `suffix` code that
    follows it, `entry_point` the function that the tests ask for; each may be empty. `reference` is an answer that
    passes, if there is one.
    """

    tests: tuple[CodeTest, ...]
    setup: str = ""
    prompt: str = ""
    suffix: str = ""
    entry_point: str = ""
    reference: str = ""

    @property
    def reads_input(self) -> bool:
        """Return whether the tests are pairs of input and output."""
        return self.tests[0].output is not None

    def key(self) -> str:
        """Return a digest of all that decides what a program is paid."""
        return digest((repr(self),))


def code_task(values: Mapping[str, Any], where: str) -> CodeTask:
    """Return the task that metadata describe: `tests`, and the `TEXTS`, each of which may be missing.

    Raises `DataError` with the place `where` for tests that cannot be read.
    """
    tests = values.get("tests")
    if not isinstance(tests, list | tuple) or not tests:
        raise DataError(f"{where}: has no list of tests, but {short(tests)}; {FORM}")
    read = tuple(_test(test, f"{where}: test {at}") for at, test in enumerate(tests))
    if len({test.output is None for test in read}) > 1:
        raise DataError(f"{where}: mixes tests that are code with tests of input and output; keep one kind")
    texts = {name: values.get(name) or "" for name in TEXTS}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise DataError(f"{where}: {name} is {short(text)}; write text")
    return CodeTask(read, **texts)


def code_task_of(task: Task) -> CodeTask:
    """Return what tests a task has: those of its source, or of its metadata; raises `DataError` if it has none."""
    return task.raw if isinstance(task.raw, CodeTask) else code_task(task.metadata, f"task {task.id!r}")


def _test(test: object, where: str) -> CodeTest:
    if isinstance(test, str) and test.strip():
        return CodeTest(code=test)
    if isinstance(test, Mapping) and set(test) == {"input", "output"}:
        texts = {name: _joined(value) for name, value in test.items()}
        if isinstance(texts["input"], str) and isinstance(texts["output"], str):
            return CodeTest(input=texts["input"], output=texts["output"])
    raise DataError(f"{where} is {short(test)}; {FORM}")


def _joined(value: object) -> object:
    """Return lines that are listed as one text; any other value as it is."""
    is_lines = isinstance(value, list) and all(isinstance(line, str) for line in value)
    return "\n".join(value) if is_lines else value  # type: ignore[arg-type]  # as checked
