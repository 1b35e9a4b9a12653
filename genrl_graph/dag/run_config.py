"""Run options that a graph file sets under `run:`; the command line overrides them."""

from typing import Annotated, Literal, Self, get_args

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.exact_numbers import ExactNumbers
from genrl_graph.dag.coordinator_config import CoordinatorConfig, from_name

Mode = Literal["train", "evaluate", "train_and_evaluate"]
TrackerName = Literal["jsonl", "tensorboard", "wandb", "mlflow"]
KNOWN_TRACKERS: tuple[str, ...] = get_args(TrackerName)


class RunConfig(ExactNumbers):
    """Run options: rounds, seed, peers, replicas, evaluation, checkpoints, failure limits; no part of the game."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rounds: int = Field(default=10, ge=0, description="how many rounds to play")
    seed: int = Field(default=0, ge=0, description="seed of every random stream of the run")
    peers: int = Field(default=1, ge=1, le=1024, description="peers that a local run plays in one process")
    roles: tuple[str, ...] = Field(
        default=(), description="roles that this peer plays, as a rank or in a swarm; none: all of them"
    )
    replicas: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="ranks of a torchrun job that share the policies of one peer, each with a part of the weights",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="CPU threads of torch; by default OMP_NUM_THREADS, or this rank's share of the processors",
    )
    checkpoint_every: int = Field(
        default=0, ge=0, description="rounds between checkpoints; 0 keeps only the one at the end"
    )
    keep: int | None = Field(default=2, ge=1, description="newest checkpoints that are kept; null keeps all")
    block_rounds: int = Field(
        default=64, ge=1, description="rounds after which the journal is written to the zarr store at the latest"
    )
    mode: Mode = Field(
        default="train", description="train_and_evaluate also evaluates before round 0 and after the last"
    )
    eval_every: int = Field(default=0, ge=0, description="rounds between evaluations; 0: only at the start and the end")
    eval_tasks: int = Field(
        default=64, ge=1, description="held-out tasks of each source in an evaluation, or all if fewer"
    )
    eval_samples: int = Field(default=1, ge=1, description="completions a task in an evaluation: pass@k for k up to it")
    eval_temperature: float | None = Field(
        default=0.0, ge=0, description="0 is greedy; null samples as the generators do in training"
    )
    eval_threshold: float = Field(
        default=1.0, description="a completion passes if its term `correct`, or else its reward, is at least this"
    )
    trackers: tuple[TrackerName, ...] = Field(
        default=("tensorboard",), description="where metrics go; metrics.jsonl is always written"
    )
    max_failed_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of a peer's own rows of a node that may fail in a round, or stay unjudged; 1: no limit",
    )
    max_failed_rows: int | None = Field(
        default=None,
        ge=0,
        description="rows of the run that may fail or stay unjudged (any number; rewards have max_unjudged)",
    )
    max_retries: int = Field(
        default=3,
        ge=0,
        description="steps of the run that may be tried again where the world outside failed (network, files)",
    )
    retry_wait_s: float = Field(
        default=1.0, ge=0, description="seconds before a step is tried again; doubled each time"
    )
    coordinator: Annotated[
        CoordinatorConfig | None,
        BeforeValidator(from_name, json_schema_input_type=CoordinatorConfig | Literal["embedded"] | None),
    ] = Field(default=None, description="contract to which `coordinate` nodes report; null: they report to nobody")

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.eval_temperature == 0 and self.eval_samples > 1:
            advice = "set eval_temperature above 0, or to null"
            raise ValueError(f"eval_samples is {self.eval_samples}, but greedy samples are all alike; {advice}")
        return self

    @model_validator(mode="after")
    def _evaluates(self) -> Self:
        if self.eval_every and self.mode != "train_and_evaluate":
            advice = "set mode to train_and_evaluate, or leave eval_every out"
            raise ValueError(f"eval_every is {self.eval_every}, but mode is {self.mode}; {advice}")
        return self

    @property
    def evaluation(self) -> Evaluation:
        """Return the evaluation settings that nodes receive: tasks, samples and temperature."""
        return Evaluation(self.eval_tasks, self.eval_samples, self.eval_temperature)
