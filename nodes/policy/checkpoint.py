"""`policy.checkpoint`: a policy as a run left it."""

from pathlib import Path

from pydantic import Field

from genrl_graph.contract.data_path import DataPath
from genrl_graph.contract.node import PolicyCarry
from genrl_graph.contract.policy import TextPolicy


class Checkpoint(PolicyCarry, name="checkpoint"):
    """The policy of a run, of whatever type it was declared there, with its weights and its version.

    `run` is the run folder, `policy` the carry's name there, `round` the rounds that it was trained for (by default
    the last checkpoint), `peer` whose copy it is (by default the first). With `optimizer` it goes on with the saved
    optimiser state, else with a fresh one. `device` wins over the one of the run.
    """

    run: DataPath = Field(min_length=1)
    round: int | None = Field(default=None, ge=0)
    peer: str | None = None
    policy: str = "policy"
    optimizer: bool = False
    device: str | None = None

    def init(self, name: str, *, seed: int) -> TextPolicy:
        """The saved policy, whatever the seed; raises `StoreError` for what the run does not have."""
        from genrl_graph.nodes.policy.loading.saved import saved_policy

        saved = saved_policy(Path(self.run).expanduser(), self.policy, round=self.round, peer=self.peer)
        return saved.handle(name, device=self.device, optimizer=self.optimizer)

    def dry(self, name: str, *, seed: int) -> TextPolicy:
        """A few thousand random weights that answer in ready-made sentences."""
        from genrl_graph.nodes.policy.loading.stub import stub_policy

        return stub_policy(name, seed=seed)
