"""Return types of the fixtures that several folders share, for the signatures of tests."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from genrl_graph import Rollouts, TextPolicy
from genrl_graph.edge_types.trajectories import Trajectories
from genrl_graph.graph_file.read import Loaded

if TYPE_CHECKING:  # hivemind, which a host needs, takes seconds to import
    from genrl_graph.runners.swarm.host import Host
    from genrl_graph.runners.swarm.transport.identity import Identity

IdentityOf = Callable[[str], "Identity"]
ReadGame = Callable[[str], Loaded]
Resources = Callable[..., dict[str, Any]]
Written = Callable[[Sequence[tuple[str, str, str | None]]], Rollouts]


class MakeRollouts(Protocol):
    """Make rollouts with these completions; a column is one value for all rows, or a list with one per row."""

    def __call__(self, completions: list[str], **columns: Any) -> Rollouts: ...


class MakeSteps(Protocol):
    """Make one trajectory per list of rewards; other arguments are per trajectory."""

    def __call__(
        self,
        rewards: Sequence[Sequence[float]],
        *,
        values: Sequence[Sequence[float]] | None = None,
        bootstrap: Sequence[float] | None = None,
        finish_reason: Sequence[str] | None = None,
        seats: Sequence[int] | None = None,
        source: str = "tasks",
    ) -> Trajectories: ...


class Sample(Protocol):
    """Sample rollouts from a policy, with params of the generator, and give them rewards drawn from the seed."""

    def __call__(
        self,
        policy: TextPolicy,
        *,
        seed: int = 0,
        num_generations: int = 4,
        questions: int = 4,
        peer: str = "peer0000",
        **params: Any,
    ) -> Rollouts: ...


class StartHost(Protocol):
    """Start a host, joined to another where one is given, with the keyword arguments of `Host.start`."""

    def __call__(
        self, name: str, join: "Host | None" = None, *, swarm: str = "game", protocol: str = "p1", **options: Any
    ) -> "Host": ...
