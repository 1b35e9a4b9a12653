"""The program in a completion, and as it is tested."""

import re

from genrl_graph.nodes.source.data.code_task import CodeTask

_FENCE = re.compile(r"```[^\n`]*\n(.*?)(?:\n?```|\Z)", re.DOTALL)


def extract_code(completion: str) -> str:
    """Return the last code block of a completion, which may lack its end; without a block the whole completion."""
    blocks: list[str] = _FENCE.findall(completion)
    return blocks[-1] if blocks else completion


def program_of(code: str, task: CodeTask) -> str:
    """Return the program that is tested: the code, between the prompt that it goes on with or relies on and the suffix.

    Code that defines the entry point follows the prompt as a new text, any other as its next characters.
    """
    if not code.strip():
        return ""
    defines = (
        task.prompt
        and task.entry_point
        and re.search(rf"^(async )?def {re.escape(task.entry_point)}\b", code, re.MULTILINE)
    )
    return f"{task.prompt}\n\n{code}" if defines else task.prompt + code + task.suffix
