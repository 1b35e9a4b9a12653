"""Arguments of a reward function: prompts, completions, and one list per column."""

from collections.abc import Mapping
from typing import Any, Literal

from genrl_graph.edge_types.images import Images
from genrl_graph.edge_types.rollouts import Rollouts
from genrl_graph.edge_types.task import Task, TaskBook
from genrl_graph.errors import RewardFailed
from genrl_graph.messages import did_you_mean

PASSED = (
    "id",
    "task_id",
    "group_id",
    "parent_ids",
    "peer",
    "node",
    "stage",
    "round",
    "sample",
    "policy_version",
    "finish_reason",
    "prompt_ids",
    "completion_ids",
)
PASSED_WITH_IMAGES = (*PASSED[: PASSED.index("prompt_ids")], "height", "width")


def arguments(
    rollouts: Rollouts, tasks: TaskBook, *, form: Literal["chat", "text"], renamed: Mapping[str, str], where: str
) -> dict[str, list[Any]]:
    """Build the keyword arguments of a function with TRL's signature, each a list with one value per row.

    `renamed` maps further names to columns; raises `RewardFailed` if such a column does not exist.
    """
    rows = rollouts.rows(*PASSED, "messages", "completion")
    row_tasks = [tasks[row["task_id"]] for row in rows]
    chat = form == "chat"
    keywords: dict[str, list[Any]] = {
        "prompts": [row["messages"] if chat else _text(row["messages"]) for row in rows],
        "completions": [_reply(row["completion"]) if chat else row["completion"] for row in rows],
        "answer": [task.answer for task in row_tasks],
        **{name: [row[name] for row in rows] for name in PASSED},
    }
    return with_renamed(_metadata(row_tasks) | keywords, renamed, where)


def image_arguments(images: Images, tasks: TaskBook, *, renamed: Mapping[str, str], where: str) -> dict[str, list[Any]]:
    """Build the keyword arguments of a function of images: `images` as PNG bytes, `captions`, and columns.

    `renamed` maps further names to columns; raises `RewardFailed` if such a column does not exist.
    """
    rows = images.rows(*PASSED_WITH_IMAGES, "caption")
    row_tasks = [tasks[row["task_id"]] for row in rows]
    keywords: dict[str, list[Any]] = {
        "images": [images.encoded(position) for position in range(len(images))],
        "captions": [row["caption"] for row in rows],
        "answer": [task.answer for task in row_tasks],
        **{name: [row[name] for row in rows] for name in PASSED_WITH_IMAGES},
    }
    return with_renamed(_metadata(row_tasks) | keywords, renamed, where)


def with_renamed(keywords: dict[str, list[Any]], renamed: Mapping[str, str], where: str) -> dict[str, list[Any]]:
    """Return keyword arguments and those of further names; raises `RewardFailed` for a column that does not exist."""
    keywords = dict(keywords)
    for name, source in renamed.items():
        if source not in keywords:
            hint = did_you_mean(source, keywords) or f"; there are {', '.join(keywords)}"
            raise RewardFailed(f"{where}: columns.{name}: no column {source!r} to pass{hint}")
        keywords[name] = keywords[source]
    return keywords


def split_calls(keywords: Mapping[str, list[Any]], size: int | None) -> list[dict[str, list[Any]]]:
    """Split the keyword arguments into calls of `size` rows, the last perhaps shorter; None: one call of all rows."""
    total = len(next(iter(keywords.values())))
    size = size or total
    return [{name: v[at : at + size] for name, v in keywords.items()} for at in range(0, total, size)]


def _text(messages: list[dict[str, str]]) -> str:
    return "\n\n".join(message["content"] for message in messages)


def _reply(completion: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": completion}]


def _metadata(tasks: list[Task]) -> dict[str, list[Any]]:
    """Return one list per metadata key, with None for tasks that lack it."""
    names = dict.fromkeys(name for task in tasks for name in task.metadata)
    return {name: [task.metadata.get(name) for task in tasks] for name in names}
