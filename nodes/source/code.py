"""`source.code`: programming tasks from a data set: MBPP, HumanEval, or programs that read input and print."""

from pydantic import Field

from genrl_graph.contract.node import Node
from genrl_graph.nodes.source.data.code_rows import CodeReader
from genrl_graph.nodes.source.data.data_set import is_local
from genrl_graph.nodes.source.data.row_source import RowSource
from genrl_graph.nodes.source.list import ListedTask, ListSource


class CodeSource(RowSource, name="code"):
    """Provides `num_tasks` programming tasks per round, sampled without replacement; every epoch is reshuffled.

    `path` is a JSONL, CSV or Parquet file, a folder, or a name on the hub. A row has the columns of one of these:

    - HumanEval (arXiv 2107.03374): prompt, test, entry_point, canonical_solution; each assertion of `check` is a test;
    - MBPP (arXiv 2108.07732): text or prompt, test_list, test_setup_code or test_imports, code;
    - input_output (APPS, arXiv 2105.09938): question and input_output, JSON of inputs and outputs;
    - tests: question and tests, a list of code or of {input, output}, and setup, entry_point, reference, if needed.

    The tests stay with `reward.tests`; a question shows the first `shown_tests` that are code, unless it has code to go
    on with. The answer is the reference solution, if there is one. Templates can read `prompt`, `entry_point` and
    `shown_tests` in the metadata.
    """

    kind_column: str | None = Field(
        default=None, description="column by which evaluations group tasks, such as the difficulty"
    )
    shown_tests: int = Field(default=1, ge=0, description="tests that a question shows, to say how it is called")

    def dry(self) -> Node:
        """Return this source for local data; for a hub data set a list of made-up tasks."""
        if is_local(self.path):
            return self
        tasks = invented_tasks(2 * self.num_tasks)
        stand_in = ListSource(
            shared=self.shared,
            tasks=tasks[: self.num_tasks],
            eval_tasks=tasks[self.num_tasks :] if self._holds_out else [],
            num_tasks=self.num_tasks,
        )
        return stand_in.placed(self.place)

    @property
    def _reader(self) -> CodeReader:
        return CodeReader(self.path, self.shown_tests, self.kind_column)


def invented_tasks(count: int) -> list[ListedTask]:
    """Return `count` different tasks: add a number."""
    return [
        ListedTask(
            question=f"Write a function `add` that adds {number} to a number.",
            answer=f"def add(x):\n    return x + {number}",
            metadata={"tests": [f"assert add(1) == {number + 1}"]},
        )
        for number in range(count)
    ]
