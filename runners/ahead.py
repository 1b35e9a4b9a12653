"""Steps that run in a thread while the next generator generates, or others are waited for: above all rewards."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from genrl_graph.node import Advantage, Generator, Select
from genrl_graph.schedule import Schedule, Step

T = TypeVar("T")
Key = tuple[str, str]
"""A node and a peer."""


def late(schedule: Schedule) -> tuple[Step, ...]:
    """The steps of a round, with those that may overlap, and credit that waits for them alone, behind a generator.

    What the next generator makes is offered before they have their turn, and a step that reads one of them has them
    before it. This order is that of commits, whether or not anything overlaps.
    """
    ordered, held, due = list[Step](), list[Step](), False
    left = sum(_generates(schedule, step) for step in schedule.steps)
    for step in schedule.steps:
        if due and step.action != "open":
            ordered, held, due = ordered + held, [], False
        waits = bool(_origins(schedule, step) & {other.node for other in held})
        if left and (_overlaps(schedule, step) or (waits and _is_credit(schedule, step))):
            held.append(step)
            continue
        if waits:
            ordered, held, due = ordered + held, [], False
        ordered.append(step)
        if _generates(schedule, step):
            left, due = left - 1, True
    return (*ordered, *held)


def started_at(schedule: Schedule, order: Sequence[Step]) -> dict[int, list[Step]]:
    """The steps to start before the step at each place: a generator or the close of an exchange, which takes time.

    All that such a step reads was made before that place, and its own place comes after it.
    """
    found: dict[int, list[Step]] = {}
    made = {step.node: at for at, step in enumerate(order)}
    for place, step in enumerate(order):
        if not _overlaps(schedule, step):
            continue
        ready = max((made[origin] for origin in _origins(schedule, step)), default=-1)
        long = (at for at in range(ready + 1, place) if _generates(schedule, order[at]) or order[at].action == "close")
        if (at := next(long, None)) is not None:
            found.setdefault(at, []).append(step)
    return found


def _overlaps(schedule: Schedule, step: Step) -> bool:
    """Whether a step may run beside others: its node says so, and it reads no policy that one of them might train."""
    return step.action == "run" and schedule.nodes[step.node].overlaps and not step.reads


def _is_credit(schedule: Schedule, step: Step) -> bool:
    return isinstance(schedule.nodes[step.node], Advantage | Select) and not step.reads


def _generates(schedule: Schedule, step: Step) -> bool:
    return isinstance(schedule.nodes[step.node], Generator)


def _origins(schedule: Schedule, step: Step) -> set[str]:
    return {edge.origin for edge in schedule.graph.nodes[step.node].edges()}


class Ahead(Generic[T]):
    """What was started before its turn: one step after the other, in a thread that lives as long as there are any."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._started: dict[Key, Future[T]] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._started

    def start(self, key: Key, work: Callable[[], T]) -> None:
        """Let the thread do it once it has done what came before."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._started[key] = self._thread.submit(work)

    def take(self, key: Key) -> Future[T] | None:
        """What was started for a step, which is then its own; None where it was not."""
        return self._started.pop(key, None)

    def end(self) -> None:
        """Wait for what runs and forget it; what has not begun never does."""
        self._started.clear()
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
            self._thread = None
