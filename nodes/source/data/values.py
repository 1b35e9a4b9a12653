"""Read values of a data set: text, chats, JSON metadata, and values inside nested columns.

A value is never converted by `str()`: types that have no single written form are refused with their place.
"""

import datetime
import decimal
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from genrl_graph.errors import DataError
from genrl_graph.messages import did_you_mean, short

CUT_PARAM = "cut_last_assistant"
_WRITTEN_AS_ISO = (datetime.date, datetime.time)  # a datetime is a date


def value_at(values: Mapping[str, Any], path: str) -> Any:
    """Return the value at a column name, or at a path into nested columns: `reward_model.ground_truth`, `turns.0`.

    A column of exactly this name wins over a path. Raises `LookupError` if there is none.
    """
    if path in values:
        return values[path]
    for head, rest in _splits(path):
        if head in values:
            return _inside(values[head], rest)
    raise LookupError(path)


def top_columns(names: Sequence[str], path: str) -> list[str]:
    """Return the columns among `names` that a column name or path may read."""
    return [name for name in names if path == name or path.startswith(f"{name}.")]


def unknown_column(where: str, path: str, values: Mapping[str, Any]) -> DataError:
    """Return the error for a column name or path that `values` lacks, with the nearest name that it has."""
    nested = [f"{name}.{key}" for name, value in values.items() if isinstance(value, Mapping) for key in value]
    has = ", ".join(map(str, values)) or "no columns"
    return DataError(f"{where}: no column {path!r}{did_you_mean(path, [*values, *nested])}; it has {has}")


def text_of(value: object, where: str, column: str = "") -> str:
    """Return a value that is asked for as text: text as it is, a whole number in digits.

    Raises `DataError` for anything else, which has no single written form. `column` is for its advice.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise DataError(f"{where} {_not_text(value, column)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{where}: holds half a surrogate pair at character {error.start}; mend the row") from error
    return value


def chat_of(value: object, where: str, column: str, *, cut_last_assistant: bool) -> list[dict[str, str]]:
    """Return the prompt of a row as chat messages that end with the user's: text is one message of the user.

    A chat that ends with the assistant holds its answer: refused, or without that turn if `cut_last_assistant`.
    """
    if not isinstance(value, list):
        messages = [{"role": "user", "content": text_of(value, where, column)}]
    else:
        messages = [_message(message, f"{where}, message {at}") for at, message in enumerate(value)]
    while cut_last_assistant and messages and messages[-1]["role"] == "assistant":
        messages.pop()
    problem = chat_problem(messages)
    if problem:
        raise DataError(f"{where}: {problem}")
    return messages


def chat_problem(messages: Sequence[Mapping[str, str]]) -> str:
    """Return why chat messages are no prompt, or "" if they are: a prompt ends with a user's message that has text."""
    if not messages:
        return "the chat has no message of a user; mend it or leave it out"
    last = messages[-1]
    if last["role"] == "assistant":
        advice = f"remove that turn ({CUT_PARAM}: true of source.hf_dataset leaves it out)"
        return (
            f"the chat ends with the assistant's {short(last['content'])}, which would be shown as a prompt; {advice}"
        )
    if last["role"] != "user":
        return f"the chat ends with a message of role {last['role']!r}; a prompt ends with one of role 'user'"
    return "" if last["content"].strip() else "the last message holds nothing; mend it or leave the row out"


def json_of(value: object, where: str) -> Any:
    """Return a value of metadata as JSON: dates become ISO text and decimals text; other types are refused."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        raise DataError(f"{where} holds {value}, which JSON does not have; write null or a number")
    if isinstance(value, Mapping):
        return {text_of(key, where): json_of(inner, f"{where}.{key}") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [json_of(inner, f"{where}.{at}") for at, inner in enumerate(value)]
    if isinstance(value, _WRITTEN_AS_ISO):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    raise DataError(f"{where} holds {short(value)}, a {type(value).__name__}; store it as text, a number, or a list")


def _splits(path: str) -> Iterator[tuple[str, str]]:
    """Yield the pairs of a column and a path inside it that `path` may mean, the longest column first."""
    parts = path.split(".")
    for at in range(len(parts) - 1, 0, -1):
        yield ".".join(parts[:at]), ".".join(parts[at:])


def _inside(value: object, path: str) -> Any:
    if isinstance(value, Mapping):
        return value_at(value, path)
    head, _, rest = path.partition(".")
    if isinstance(value, list) and head.isdecimal() and int(head) < len(value):
        return _inside(value[int(head)], rest) if rest else value[int(head)]
    raise LookupError(path)


def _message(message: object, where: str) -> dict[str, str]:
    if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
        raise DataError(f"{where} is {short(message)}; a message is {{role: ..., content: ...}}")
    role = message["role"]
    if not isinstance(role, str) or not role:
        raise DataError(f"{where} has the role {short(role)}; write system, user or assistant")
    for key, value in message.items():
        if key not in ("role", "content") and value not in (None, "", [], {}):
            advice = "a prompt shows role and content only; move it to content or remove it"
            raise DataError(f"{where} has {key}: {short(value)}; {advice}")
    return {"role": role, "content": _content(message["content"], where)}


def _content(content: object, where: str) -> str:
    """Return the text of a message; parts of type text are joined as chat templates join them."""
    if not isinstance(content, list):
        return text_of(content, f"{where}, content")
    texts = []
    for at, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text" or not isinstance(part, Mapping):
            raise DataError(f"{where}, part {at} is {short(part)}; only parts {{type: text, text: ...}} can be shown")
        texts.append(text_of(part.get("text"), f"{where}, part {at}"))
    return "".join(texts)


def _not_text(value: object, column: str) -> str:
    """Return what a value is that is not text, and what to do; `column` is its column, if it has one."""
    if value is None:
        return "holds nothing; mend it or leave the row out"
    if isinstance(value, float) and math.isnan(value):
        return "holds NaN, a missing number; mend it or leave the row out"
    kind, advice = f"a {type(value).__name__}", "store it as text, as it shall be shown and compared"
    if isinstance(value, Mapping):
        kind = "named fields"
        advice = (
            f"name one of them as the column: {', '.join(f'{column}.{key}' for key in value)}" if column else advice
        )
    elif isinstance(value, list | tuple):
        kind, advice = "a list", f"name an item as the column ({column}.0), or store text" if column else advice
    elif isinstance(value, bytes):
        kind, advice = "bytes", "store the decoded text"
    elif isinstance(value, bool | float):
        kind = "true or false" if isinstance(value, bool) else "a fraction, which can be written in several ways"
    return f"holds {short(value)}: {kind}, not text; {advice}"
