"""What a reward function is called with: prompts, completions, and one list a column."""

from collections.abc import Mapping
from typing import Any, Literal

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
    "finish",
    "prompt_ids",
    "completion_ids",
)


def arguments(
    rollouts: Rollouts, tasks: TaskBook, *, form: Literal["chat", "text"], renamed: Mapping[str, str], where: str
) -> dict[str, list[Any]]:
    """The keywords of a function with TRL's signature, one value a row in each.

    Raises `RewardFailed` where `renamed` names a column that is not there.
    """
    rows = rollouts.rows(*PASSED, "messages", "completion")
    known = [tasks[row["task_id"]] for row in rows]
    chat = form == "chat"
    keywords: dict[str, list[Any]] = {
        "prompts": [row["messages"] if chat else _text(row["messages"]) for row in rows],
        "completions": [_reply(row["completion"]) if chat else row["completion"] for row in rows],
        "answer": [task.answer for task in known],
        **{name: [row[name] for row in rows] for name in PASSED},
    }
    keywords = _metadata(known) | keywords
    for name, source in renamed.items():
        if source not in keywords:
            there = did_you_mean(source, keywords) or f"; there are {', '.join(keywords)}"
            raise RewardFailed(f"{where}: columns.{name}: no column {source!r} to pass{there}")
        keywords[name] = keywords[source]
    return keywords


def parts(keywords: Mapping[str, list[Any]], size: int | None) -> list[dict[str, list[Any]]]:
    """The keywords of each call: of `size` rows and the last of what is left; all rows where it is None."""
    total = len(keywords["completions"])
    size = size or total
    return [{name: v[at : at + size] for name, v in keywords.items()} for at in range(0, total, size)]


def _text(messages: list[dict[str, str]]) -> str:
    return "\n\n".join(message["content"] for message in messages)


def _reply(completion: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": completion}]


def _metadata(tasks: list[Task]) -> dict[str, list[Any]]:
    """One list a metadata key; None where a task does not have it."""
    names = dict.fromkeys(name for task in tasks for name in task.metadata)
    return {name: [task.metadata.get(name) for task in tasks] for name in names}
