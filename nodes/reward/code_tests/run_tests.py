"""Run a program against the tests of its task, in sandboxes, and say by which rule each test ended."""

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from genrl_graph.nodes.reward.code_tests import asserting, candidate, values
from genrl_graph.nodes.sandbox.connected import run_connected
from genrl_graph.nodes.sandbox.limits import SandboxLimits, SandboxResult
from genrl_graph.nodes.sandbox.python import run_python
from genrl_graph.nodes.source.data.code_task import CodeTask

PASSED = "passed"
RULES = (PASSED, "wrong", "uncalled", "no_code", *sorted(asserting.FAILURES))
"""Every way in which a test can end."""
_SIZE_AS_JSON = 6
"""Bytes that a byte of output takes at most as JSON."""


Ends = tuple[tuple[str, str], ...]
"""Of each test the rule by which the program ended, and what it printed, if the test is an input."""
Rules = tuple[str, ...]


def run_tests(program: str, task: CodeTask, limits: SandboxLimits, test_s: float) -> Rules:
    """Return by which rule each test of the task ended; raises `DataError` if the sandbox cannot contain code here.

    The limits are those of the program in all tests together, but that each test is a process, of at most `test_s`
    seconds. What a test expects is compared here, or in a sandbox that the program is not in.
    """
    return compare(task, run_program(program, task, limits, test_s))


def run_program(program: str, task: CodeTask, limits: SandboxLimits, test_s: float) -> Ends:
    """Run the tests that are code, or the program on each input; an output is not compared here."""
    if not program.strip():
        return (("no_code", ""),) * len(task.tests)
    inside = limits.model_copy(update={"processes": limits.processes + 1})  # one starts the others
    options = {"program": program, "test_s": test_s, "most_output": limits.output_kb * 2**10}
    if task.reads_input:
        return _run_inputs([test.input for test in task.tests], options, inside)
    server = _script(candidate, "serve_calls", options)
    tests = {"setup": task.setup, "tests": [test.code for test in task.tests], "entry_point": task.entry_point}
    client = _script(asserting, "check", tests | {"most_reply": options["most_output"]})
    for_all = limits.model_copy(update={"cpu_s": math.ceil(limits.wall_s)})  # one process runs all tests
    hung_up = asserting.HUNG_UP
    result = run_connected(server, client, server_limits=inside, client_limits=for_all, hung_up=hung_up)
    rules = dict(_lines(result.stderr, (int, str)))
    missing = _missing(result)
    return tuple((rules.get(number, missing), "") for number in range(len(task.tests)))


def compare(task: CodeTask, ends: Ends) -> Rules:
    """Return by which rule each test ends, once its output is compared."""
    rules = []
    for test, (rule, output) in zip(task.tests, ends, strict=True):
        is_right = test.output is None or _printed(output) == _printed(test.output)
        rules.append("wrong" if rule == PASSED and not is_right else rule)
    return tuple(rules)


def _run_inputs(inputs: Sequence[str], options: Mapping[str, Any], limits: SandboxLimits) -> Ends:
    most = 1 + len(inputs) * (1 + _SIZE_AS_JSON * limits.output_kb)
    source = _script(candidate, "run_inputs", {**options, "inputs": list(inputs)})
    result = run_python(source, limits=limits.model_copy(update={"output_kb": most}))
    ends = _lines(result.stdout, (str, str))[: len(inputs)]
    ends += [(_missing(result), "")] * (len(inputs) - len(ends))
    named = {"ended": PASSED} | {rule: rule for rule in asserting.FAILURES}
    return tuple((named.get(reason, "no_data"), output) for reason, output in ends)


def _missing(result: SandboxResult) -> str:
    """Return the rule of tests that the sandbox ended before."""
    return result.reason if result.reason in asserting.FAILURES else "killed"


def _printed(output: str) -> list[str]:
    """Return the lines of an output without space at the end of each, and without empty lines at its end."""
    return [line.rstrip() for line in output.rstrip().split("\n")]


def _lines(text: str, types: tuple[type, type]) -> list[tuple[Any, Any]]:
    """Return the lines that are a JSON list of two values of these types."""
    pairs = []
    for line in text.splitlines():
        try:
            pair = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(pair, list) and [type(value) for value in pair] == list(types):
            pairs.append((pair[0], pair[1]))
    return pairs


def _script(module: Any, function: str, keywords: Mapping[str, Any]) -> str:
    """Return the source that calls a function of one of the two modules that run in a sandbox."""
    arguments = json.dumps(keywords)
    return f"{_prelude(module)}import json\n_module.{function}(**json.loads({arguments!r}))\n"


@cache
def _prelude(module: Any) -> str:
    """Return the source that defines a module and the one that it imports, where genrl_graph is not installed."""
    lines = ["import sys\n"]
    for one in (values, module):
        source = Path(str(one.__file__)).read_text(encoding="utf-8")
        lines.append(f"_module = sys.modules[{one.__name__!r}] = type(sys)({one.__name__!r})\n")
        lines.append(f"exec(compile({source!r}, {one.__name__!r}, 'exec'), _module.__dict__)\n")
    return "".join(lines)
