"""`source.proposed_code`: programming tasks that a policy proposes."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from pydantic import Field

from genrl_graph.nodes.reward.code_tests.programs import program_of
from genrl_graph.nodes.reward.code_tests.results import Trial, run_programs, run_trials
from genrl_graph.nodes.reward.code_tests.run_tests import PASSED, Ends, Rules
from genrl_graph.nodes.sandbox.limits import SandboxLimits
from genrl_graph.nodes.sandbox.python import prepare_sandbox, sandbox_problems
from genrl_graph.nodes.source.data.code_proposals import defined_names, leaks, read_draft, trivial_solutions
from genrl_graph.nodes.source.data.code_task import CodeTask, CodeTest
from genrl_graph.nodes.source.proposals import TRANSIENT, Dropped, Proposal, ProposalSource
from genrl_graph.nodes.worker.worker import Failure


class ProposedCode(ProposalSource, name="proposed_code"):
    """Provides the programming tasks that completions propose; all of a proposal runs in the sandbox alone.

    A proposal is a statement, a code block with a reference solution, and one with assertions that call it. With
    `inputs` it is a solution alone: its outputs for these standard inputs are the tests, and what the task shows.
    `prompt` and `suffix` are code before and after every answer, the reference included. Dropped are proposals that

    - are `unreadable`, `too_long` or have `too_many_tests`;
    - say the solution in the statement (`leaks`);
    - fail their own tests (`fails`), which must call the solution, or end otherwise (`raised`, `cpu` and so on);
    - could not be run on a busy machine (`wall`, `not_run`), which another try may do without;
    - are solved by a `trivial` program: one that returns or prints a constant or what it is given, or of `trivial`.

    The answer is the reference solution; `reward.tests` pays by the tests, whoever proposed them.
    """

    inputs: tuple[str, ...] = Field(
        default=(), description="standard inputs on which the reference makes the tests; empty: a proposal has its own"
    )
    prompt: str = Field(default="", description="code that every answer goes on with")
    suffix: str = Field(default="", description="code that follows every answer")
    max_tests: int = Field(default=16, ge=1, le=2**16, description="most tests of a proposal")
    trivial: tuple[str, ...] = Field(default=(), description="further answers that must not solve a task")
    limits: SandboxLimits = Field(default=SandboxLimits(wall_s=60.0), description="what a program may use at most")
    test_s: float = Field(default=10.0, gt=0, le=86400, description="seconds of one test, whatever the program does")
    workers: int | None = Field(
        default=None, ge=1, le=1024, description="programs that run at a time; null: as many as cores"
    )

    def prepare(self) -> None:
        """Try whether the sandbox contains code here; raises `DataError` if not."""
        prepare_sandbox()

    def check_data(self) -> Iterable[str]:
        """Return why the sandbox cannot contain code here."""
        return sandbox_problems()

    def judge(self, texts: Sequence[str]) -> list[Proposal | Dropped]:
        """Return the task that each text proposes, or the rule by which it is none."""
        drafts = self._with_outputs(texts) if self.inputs else [self._with_tests(text) for text in texts]
        tasks = {at: task for at, (_, task) in enumerate(drafts) if isinstance(task, CodeTask)}
        failed = self._failing(tasks)
        easy = self._trivial({at: task for at, task in tasks.items() if at not in failed})
        judged: list[Proposal | Dropped] = []
        for at, (statement, task) in enumerate(drafts):
            dropped = task if isinstance(task, Dropped) else failed.get(at) or easy.get(at)
            judged.append(dropped or _proposal(statement, tasks[at]))
        return judged

    def _with_outputs(self, texts: Sequence[str]) -> list[tuple[str, CodeTask | Dropped]]:
        """Return the tasks to print what each solution prints on the inputs."""
        inputs = tuple(CodeTest(input=text, output="") for text in self.inputs)
        drafts = [self._with_affixes(inputs, "", text) for text in texts]
        trials = {at: self._trial(program_of(task.reference, task), task) for at, task in enumerate(drafts)}
        ended = run_programs(trials, workers=self.workers, until=math.inf)
        return [self._printing(drafts[at], ended[at]) for at in range(len(drafts))]

    def _printing(self, draft: CodeTask, ends: Ends | Failure) -> tuple[str, CodeTask | Dropped]:
        """Return the task of a solution that has printed on each input, or why there is none."""
        if isinstance(ends, Failure):
            return "", Dropped("not_run", ends.reason)
        if failed := next((rule for rule, _ in ends if rule != PASSED), None):
            return "", Dropped(failed, "the reference solution ends by this rule")
        tests = tuple(CodeTest(input=test.input, output=out) for test, (_, out) in zip(draft.tests, ends, strict=True))
        shown = "\n".join(f"{test.input.strip()} -> {(test.output or '').strip()}" for test in tests)
        return f"Write a program that prints for each input:\n{shown}", replace(draft, tests=tests)

    def _with_tests(self, text: str) -> tuple[str, CodeTask | Dropped]:
        """Return the task that a text states, with tests of its own."""
        draft = read_draft(text)
        if draft is None:
            return "", Dropped("unreadable", "write a statement, a code block that solves it, and one of assertions")
        if len(draft.tests) > self.max_tests:
            return "", Dropped("too_many_tests", f"has {len(draft.tests)} tests (max_tests is {self.max_tests})")
        if leaks(draft.statement, draft.reference):
            return "", Dropped("leaks", "the statement says the solution")
        tests = tuple(CodeTest(code=test) for test in draft.tests)
        statement = f"{draft.statement}\n\nThe program must pass:\n\n```python\n{draft.tests[0]}\n```"
        return statement, self._with_affixes(tests, draft.setup, draft.reference)

    def _with_affixes(self, tests: tuple[CodeTest, ...], setup: str, reference: str) -> CodeTask:
        return CodeTask(tests, setup, prompt=self.prompt, suffix=self.suffix, reference=reference)

    def _failing(self, tasks: dict[int, CodeTask]) -> dict[int, Dropped]:
        """Return the tasks whose reference fails a test of its own."""
        ended = self._run({at: (program_of(task.reference, task), task) for at, task in tasks.items()})
        failed = {}
        for at, rules in ended.items():
            rule = next((rule for rule in rules if rule != PASSED), None)
            if rule is not None:
                name = rule if rule in TRANSIENT else "fails"
                failed[at] = Dropped(name, f"the reference solution does not pass its tests: {rule}")
        return failed

    def _trivial(self, tasks: dict[int, CodeTask]) -> dict[int, Dropped]:
        """Return the tasks that a program of the list of trivial ones solves."""
        programs: list[tuple[int, str]] = []
        for at, task in tasks.items():
            names = defined_names(program_of(task.reference, task))
            answers = [program_of(answer, task) for answer in self.trivial]
            programs += [(at, program) for program in (*answers, *trivial_solutions(task.tests, names))]
        ended = self._run({number: (program, tasks[at]) for number, (at, program) in enumerate(programs)})
        solved: dict[int, Dropped] = {}
        for number, rules in ended.items():
            at, program = programs[number]
            if set(rules) == {PASSED}:
                solved.setdefault(at, Dropped("trivial", f"is solved by {program!r}"))
        return solved

    def _run(self, programs: dict[int, tuple[str, CodeTask]]) -> dict[int, Rules]:
        """Run programs against the tests of tasks; what a sandbox did not start for is `not_run`."""
        trials = {at: self._trial(program, task) for at, (program, task) in programs.items()}
        ended = run_trials(trials, workers=self.workers, until=math.inf)
        return {at: ("not_run",) if isinstance(rules, Failure) else rules for at, rules in ended.items()}

    def _trial(self, program: str, task: CodeTask) -> Trial:
        return Trial(program, task, self.limits, self.test_s)


def _proposal(statement: str, task: CodeTask) -> Proposal:
    shown = [test.code or {"input": test.input, "output": test.output} for test in task.tests]
    metadata = {"prompt": task.prompt, "suffix": task.suffix, "shown_tests": shown if task.reads_input else shown[:1]}
    return Proposal([{"role": "user", "content": statement}], task.reference, metadata, raw=task)
