"""`policy.checkpoint`: a policy from a checkpoint of an earlier run."""

from pathlib import Path

from pydantic import Field

from genrl_graph.contract.data_path import DataPath
from genrl_graph.contract.node import PolicyCarry
from genrl_graph.contract.policy import TextPolicy


class Checkpoint(PolicyCarry, name="checkpoint"):
    """A policy of any type from a run's checkpoint, with its weights and version.

    It starts a run from what an earlier one has learnt, or serves as a frozen opponent, judge or reference.
    """

    run: DataPath = Field(min_length=1, description="run folder, such as runs/tiny")
    round: int | None = Field(
        default=None, ge=0, description="load the checkpoint after this many rounds; null: the last one"
    )
    peer: str | None = Field(default=None, description="peer whose copy is loaded; null: the first by name")
    policy: str = Field(default="policy", description="name of the carry in that run")
    optimizer: bool = Field(
        default=False, description="whether to load the optimiser's state too, to continue its training"
    )
    device: str | None = Field(default=None, description="torch device in place of that run's; null: the same")

    def init(self, name: str, *, seed: int) -> TextPolicy:
        """Load the saved policy; the seed is not used. Raises `StoreError` if the run lacks it."""
        from genrl_graph.nodes.policy.loading.saved import saved_policy

        saved = saved_policy(Path(self.run).expanduser(), self.policy, round=self.round, peer=self.peer)
        return saved.handle(name, device=self.device, optimizer=self.optimizer)

    def dry(self, name: str, *, seed: int) -> TextPolicy:
        """Return a stand-in for dry play: a tiny random model whose replies are canned."""
        from genrl_graph.nodes.policy.loading.stub import stub_policy

        return stub_policy(name, seed=seed)
