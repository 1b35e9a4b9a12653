"""Read rows of data sets of programming tasks: MBPP, HumanEval, and pairs of standard input and output."""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from genrl_graph.edge_types.task import Task
from genrl_graph.errors import DataError
from genrl_graph.messages import short
from genrl_graph.nodes.source.data.code_task import CodeTask, code_task
from genrl_graph.nodes.source.data.values import json_of, text_of, unknown_column, value_at

SHAPES: Mapping[str, tuple[str, ...]] = {
    "HumanEval": ("prompt", "test", "entry_point"),
    "MBPP": ("test_list",),
    "input_output": ("input_output",),
    "tests": ("tests",),
}
"""The columns by which the shape of a row is known, the first that fits."""
QUESTIONS = ("question", "text", "prompt", "problem", "description")
REFERENCES = ("canonical_solution", "code", "reference", "solution")
OTHERS = ("test_setup_code", "test_imports", "setup", "entry_point", "prompt")


@dataclass(frozen=True, slots=True)
class CodeReader:
    """Converts rows of the data set at `path` to tasks; their question shows the first `shown_tests` tests."""

    path: str
    shown_tests: int
    kind: str | None = None

    @property
    def optional(self) -> list[str]:
        """Columns that single rows may lack: those that the shapes do not share are looked at row by row."""
        return []

    @property
    def read_columns(self) -> list[str]:
        """Names of all columns of all shapes, each once."""
        kind = () if self.kind is None else (self.kind,)
        named = [name for names in SHAPES.values() for name in names]
        return list(dict.fromkeys([*named, *QUESTIONS, *REFERENCES, *OTHERS, *kind]))

    def require_columns(self, names: list[str]) -> None:
        """Raise `DataError` if a header has the columns of no shape."""
        _shape(names, self.path)

    def select(self, where: str, row: int, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return question, tests, reference and kind of a row; raises `DataError` with its place if it is no task."""
        where = f"{where}: row {row}"
        shape = _shape([name for name, value in values.items() if value is not None], where)
        record = _READ[shape](values, where)
        record["kind"] = ""
        if self.kind is not None:
            try:
                record["kind"] = text_of(value_at(values, self.kind), f"{where}: column {self.kind!r}")
            except LookupError as error:
                raise unknown_column(where, self.kind, values) from error
        if not record["question"].strip():
            raise DataError(f"{where}: none of the columns {', '.join(QUESTIONS)} holds text; mend it or leave it out")
        code_task(record, where)
        return record

    def task(self, task_id: str, where: str, record: Mapping[str, Any]) -> Task:
        """Convert a selected row to a task."""
        code = code_task(record, where)
        shown = [test.code or asdict(test) for test in code.tests[: self.shown_tests]]
        question = record["question"] + _shown(code, self.shown_tests)
        metadata = {"prompt": code.prompt, "entry_point": code.entry_point, "shown_tests": shown}
        messages = [{"role": "user", "content": question}]
        return Task(task_id, messages, code.reference, metadata, raw=code, kind=record["kind"])


def _shape(names: Sequence[str], where: str) -> str:
    for shape, columns in SHAPES.items():
        if set(columns) <= set(names):
            return shape
    shapes = "; ".join(f"{shape} ({', '.join(columns)})" for shape, columns in SHAPES.items())
    raise DataError(f"{where}: has the columns of no known shape: {shapes}; it has {', '.join(names) or 'none'}")


def _human_eval(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    prompt, test = (text_of(values[name], f"{where}: column {name!r}") for name in ("prompt", "test"))
    entry_point = text_of(values["entry_point"], f"{where}: column 'entry_point'").strip()
    question = f"Complete this Python program.\n\n```python\n{prompt.rstrip()}\n```"
    tests = [f"{part}\n\ncheck({entry_point})" for part in split_checks(test, "check")]
    reference = _first(values, REFERENCES[:1], where)
    own = {"setup": prompt, "prompt": prompt, "entry_point": entry_point, "reference": reference}
    return {"question": question, "tests": tests, **own}


def _mbpp(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    tests = json_of(values["test_list"], f"{where}: column 'test_list'")
    imports = json_of(values.get("test_imports"), where)
    lines = imports if isinstance(imports, list) else [imports or ""]
    setup = "\n".join([*map(str, lines), _first(values, ("test_setup_code", "setup"), where)])
    reference = _first(values, REFERENCES[1:], where)
    first = str(tests[0]) if isinstance(tests, list) and tests else ""
    own = {"setup": setup.strip(), "prompt": "", "entry_point": _tested(reference, first), "reference": reference}
    return {"question": _first(values, QUESTIONS, where), "tests": tests, **own}


def _input_output(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    pairs = values["input_output"]
    where_pairs = f"{where}: column 'input_output'"
    try:
        pairs = json.loads(pairs) if isinstance(pairs, str) else pairs
        inputs, outputs = pairs["inputs"], pairs["outputs"]
        tests = [{"input": given, "output": wanted} for given, wanted in zip(inputs, outputs, strict=True)]
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        form = '{"inputs": [...], "outputs": [...]}, as many of each'
        raise DataError(f"{where_pairs} is {short(pairs)}; write {form}") from error
    return _general({**values, "tests": tests}, where)


def _general(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    tests = json_of(values["tests"], f"{where}: column 'tests'")
    own = {name: _first(values, (name,), where) for name in ("setup", "entry_point")}
    reference = _first(values, REFERENCES, where)
    return {"question": _first(values, QUESTIONS, where), "tests": tests, "reference": reference, "prompt": "", **own}


_READ = {"HumanEval": _human_eval, "MBPP": _mbpp, "input_output": _input_output, "tests": _general}


def split_checks(source: str, name: str) -> list[str]:
    """Return the source of a test function once per assertion of its body, each with what comes before but is none.

    An assertion of a constant tests nothing and is left out. A source that cannot be read stays as it is.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return [source]
    function = next((node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name), None)
    if function is None or not any(isinstance(node, ast.Assert) for node in function.body):
        return [source]
    parts, before = list[str](), list[ast.stmt]()
    for at, node in enumerate(body := function.body):
        is_test = isinstance(node, ast.Assert)
        if not isinstance(node.test, ast.Constant) if isinstance(node, ast.Assert) else at == len(body) - 1:
            function.body = [*before, node]
            parts.append(ast.unparse(tree))
        before += [] if is_test else [node]
    return parts or [source]


def _tested(reference: str, test: str) -> str:
    """Return the function of the reference that a test calls, "" if there is none."""
    for name in re.findall(r"^def (\w+)", reference, re.MULTILINE):
        if re.search(rf"\b{name}\(", test):
            return str(name)
    return ""


def _shown(task: CodeTask, count: int) -> str:
    """Return the text by which a question shows the first tests; a prompt that is code needs none."""
    if task.prompt or task.reads_input or not count:
        return ""
    tests = "\n".join(test.code for test in task.tests[:count])
    return f"\n\nThe program must pass:\n\n```python\n{tests}\n```"


def _first(values: Mapping[str, Any], names: Sequence[str], where: str) -> str:
    """Return the text of the first of these columns that holds any, "" if none does."""
    for name in names:
        if values.get(name):
            return text_of(values[name], f"{where}: column {name!r}", name)
    return ""
