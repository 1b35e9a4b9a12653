"""`source.hf_dataset`: tasks from a data set on disk or on the Hugging Face hub."""

from collections.abc import Sequence

from pydantic import Field

from genrl_graph.contract.node import Node
from genrl_graph.nodes.source.data.data_set import is_local
from genrl_graph.nodes.source.data.records import PRESETS, AnswerFrom, Columns, Preset, RowReader
from genrl_graph.nodes.source.data.row_source import RowSource
from genrl_graph.nodes.source.list import ListedTask, ListSource


class HfDataset(RowSource, name="hf_dataset"):
    """Provides `num_tasks` rows of a data set per round, sampled without replacement; every epoch is reshuffled.

    `path` is a JSONL, CSV or Parquet file, a folder, or a name on the hub; `name` is the subset. The answer is the
    answer column, or the text after its last `####` (gsm8k) or in its last box (boxed). Params left out default to
    those of the hub name, if it is openai/gsm8k, open-r1/DAPO-Math-17k-Processed or
    open-r1/Big-Math-RL-Verified-Processed. A column may be a path into nested ones (`reward_model.ground_truth`). The
    key of a task is its row number.

    Question and answer are the text of the file: text, whole numbers, or a chat that ends with the user. Any other
    value is refused with its row. All rows are read and checked before a policy is made, except those of a stream from
    the hub.

    An evaluation uses rows of `eval_split` (keys `eval-<row>`), or the share `holdout` of the rows, which training
    never samples. With `streaming` the data set is never loaded whole: blocks of `shuffle_block`
    rows are read in the order of the stream, and each is shuffled.
    """

    columns: Columns | None = Field(
        default=None, description="columns of question and answer; null: the defaults of the hub name"
    )
    answer_from: AnswerFrom | None = Field(
        default=None,
        description="how the answer is read: the whole column, after its last #### (gsm8k), or in its last "
        "\\boxed; null: by hub name",
    )
    cut_last_assistant: bool = Field(
        default=False, description="whether a chat that ends with the assistant is used without that turn, or refused"
    )
    metadata: list[str] = Field(
        default=[], description="further columns that tasks keep, which templates and reward functions can read"
    )
    kind_column: str | None = Field(
        default=None, description="column by which evaluations group tasks, such as the subject"
    )

    def dry(self) -> Node:
        """Return this source for local data; for a hub data set a list of made-up sums."""
        if is_local(self.path):
            return self
        count = self.num_tasks
        stand_in = ListSource(
            shared=self.shared,
            tasks=invented_sums(count, metadata=self.metadata),
            eval_tasks=invented_sums(count, start=count, metadata=self.metadata) if self._holds_out else [],
            num_tasks=count,
        )
        return stand_in.placed(self.place)

    @property
    def preset(self) -> Preset:
        """The subset, columns and answer format: the params, with the defaults of the hub name."""
        default = PRESETS.get(self.path, Preset())
        name = self.name or default.name
        return Preset(name, self.columns or default.columns, self.answer_from or default.answer_from)

    @property
    def subset(self) -> str | None:
        """The subset of the data set: the param, or the default of the hub name."""
        return self.preset.name

    @property
    def _reader(self) -> RowReader:
        preset = self.preset
        return RowReader(
            self.path,
            preset.columns,
            preset.answer_from,
            tuple(self.metadata),
            self.kind_column,
            self.cut_last_assistant,
        )


def invented_sums(count: int, *, start: int = 0, metadata: Sequence[str] = ()) -> list[ListedTask]:
    """Return `count` different sums with their results; metadata columns hold empty text."""
    return [
        ListedTask(
            question=f"What is {number} + {number % 7 + 1}?",
            answer=str(number + number % 7 + 1),
            metadata=dict.fromkeys(metadata, ""),
        )
        for number in range(start, start + count)
    ]
