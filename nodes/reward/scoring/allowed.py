"""Which functions a graph file may name: it may be a stranger's, so it runs nothing that nobody asked for."""

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
"""Allowed to every file, by these names alone; a newer TRL's others need `--import trl.rewards`."""


def may_run(module: str, qualname: str) -> None:
    """Raise `ValueError` for a function that the user has not allowed.

    Allowed is what a module that was imported on request defines, itself or in its own package: not what such a
    module has imported, or everybody could call `os.system` through it.
    """
    if module == TRL and qualname in TRL_REWARDS:
        return
    if not registry.consented(module):
        if module == TRL:
            hint = did_you_mean(qualname, TRL_REWARDS) or f"; it has {', '.join(TRL_REWARDS)}"
            raise ValueError(f"a graph file may not run {qualname!r} of {TRL}{hint}; `--import {TRL}` allows the rest")
        advice = f"add `--import {module}`, or `--import` and the path of {module}.py, to allow it"
        raise ValueError(f"a graph file may not run {module!r} by itself; {advice}")
    found: object = sys.modules.get(module)
    for part in qualname.split("."):
        if part.startswith("_"):
            raise ValueError(f"{module}:{qualname}: {part!r} is private; name a public function")
        known = dir(found)
        if not hasattr(found, part):
            where = f"module {module!r}" if isinstance(found, ModuleType) else f"{module}:{qualname}"
            raise ValueError(f"{where} has no {part!r}{did_you_mean(part, known)}")
        found = getattr(found, part)
        home = found.__name__ if isinstance(found, ModuleType) else str(getattr(found, "__module__", module))
        if isinstance(found, ModuleType) or not _at_home(home, module, part):
            advice = f"define a function of your own around it in {module}"
            raise ValueError(f"{module}:{qualname} leads to {home!r}, which {module} has only imported; {advice}")


def _at_home(home: str, module: str, name: str) -> bool:
    of_trl = home.startswith(f"{TRL}.") and name in TRL_REWARDS
    return of_trl or home.partition(".")[0] == module.partition(".")[0]
