"""Params of policies that say how a chat becomes a prompt: the template, its variables, and a prefix of the reply."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, JsonValue, ValidationInfo

SUFFIXES = (".jinja", ".jinja2", ".j2", ".txt")
"""Endings of files that may hold a chat template."""
MOST_BYTES = 1 << 20
RESERVED = frozenset(
    {
        *(
            "conversation",
            "conversations",
            "messages",
            "chat_template",
            "add_generation_prompt",
            "continue_final_message",
            "tokenize",
        ),
        *("padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask"),
        *("tokenizer_kwargs", "self"),
    }
)
"""Arguments of `apply_chat_template` that a policy sets itself."""


def _text_of(value: str, info: ValidationInfo) -> str:
    """Return an inline template, or the text of the file that the value names, from the folder of the graph file."""
    if "{{" in value or "{%" in value:
        return value
    path = ((info.context or {}).get("folder") or Path.cwd()) / Path(value).expanduser()
    if path.suffix not in SUFFIXES:
        endings = ", ".join(SUFFIXES)
        raise ValueError(f"is no template (without {{{{ or {{%), and no file of one; such files end with {endings}")
    try:
        content = path.read_bytes()[: MOST_BYTES + 1]
        if len(content) > MOST_BYTES:
            raise ValueError(f"{path} has more than {MOST_BYTES} bytes; is it a chat template?")
        return content.decode()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}; paths start at the graph file") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text; is it a chat template?") from error


def _free(kwargs: dict[str, JsonValue]) -> dict[str, JsonValue]:
    for name in kwargs:
        if name in RESERVED:
            raise ValueError(f"{name} is set by the policy itself; give only variables that the template reads")
    return kwargs


TemplateText = Annotated[str, AfterValidator(_text_of)]
"""A Jinja chat template, or the name of a file of one; the graph then holds the text of the file."""

ChatTemplateKwargs = Annotated[
    dict[str, JsonValue],
    AfterValidator(_free),
    Field(description="variables for the chat template, such as {enable_thinking: false}"),
]
AssistantPrefix = Annotated[
    str,
    Field(
        description="text with which every reply begins, such as <think>; it ends the prompt, so it is neither sampled "
        "nor trained nor part of the completion"
    ),
]
