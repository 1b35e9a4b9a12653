"""Allow-list of functions that a graph file may name: a stranger's file must not run code the user did not allow."""

import sys
from types import ModuleType

from genrl_graph.contract import registry
from genrl_graph.messages import did_you_mean

TRL = "trl.rewards"
TRL_REWARDS = (
    "accuracy_reward",
    "get_cosine_scaled_reward",
    "get_repetition_penalty_reward",
    "get_soft_overlong_punishment",
    "reasoning_accuracy_reward",
    "think_format_reward",
)
"""Rewards of TRL that every file may name; any other one needs `--import trl.rewards`."""


def require_allowed(module: str, qualname: str) -> None:
    """Raise `ValueError` for a function that the user has not allowed.

    A function is allowed if a module that the user imported with `--import` defines it, or that module's package.
    Names that such a module merely imports are refused: otherwise a file could call `os.system` through it.
    """
    if module == TRL and qualname in TRL_REWARDS:
        return
    if not registry.consented(module):
        if module == TRL:
            hint = did_you_mean(qualname, TRL_REWARDS) or f"; it has {', '.join(TRL_REWARDS)}"
            raise ValueError(f"a graph file may not run {qualname!r} of {TRL}{hint}; `--import {TRL}` allows the rest")
        advice = f"add `--import {module}`, or `--import` and the path of {module}.py, to allow it"
        raise ValueError(f"a graph file may not run {module!r} by itself; {advice}")
    target: object = sys.modules.get(module)
    for part in qualname.split("."):
        if part.startswith("_"):
            raise ValueError(f"{module}:{qualname}: {part!r} is private; name a public function")
        if not hasattr(target, part):
            where = f"module {module!r}" if isinstance(target, ModuleType) else f"{module}:{qualname}"
            raise ValueError(f"{where} has no {part!r}{did_you_mean(part, dir(target))}")
        target = getattr(target, part)
        home = target.__name__ if isinstance(target, ModuleType) else str(getattr(target, "__module__", module))
        if isinstance(target, ModuleType) or not _is_defined_in(home, module, part):
            advice = f"define a function of your own around it in {module}"
            raise ValueError(f"{module}:{qualname} leads to {home!r}, which {module} has only imported; {advice}")


def _is_defined_in(home: str, module: str, name: str) -> bool:
    is_trl_reward = home.startswith(f"{TRL}.") and name in TRL_REWARDS
    return is_trl_reward or home.partition(".")[0] == module.partition(".")[0]
