"""TRL's `GRPOTrainer` on the job of `bench_speed`, an optimiser step a round."""

import sys
from collections.abc import Callable
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from datasets import Dataset
from measure import Clock
from speed_game import LEARNING_RATE, Job
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from genrl_graph.nodes.policy.compute.handle import CausalPolicy


class OnDemand(TrainerCallback):
    """A step begins when a line comes, and ends with its figures: `tell(seconds in all, seconds of sampling)`."""

    def __init__(self, generate: Clock, tell: Callable[[float, float], None], ready: Callable[[], None]) -> None:
        self._generate, self._tell, self._ready = generate, tell, ready
        self._started = self._sampled = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Wait for the line; the first step makes the optimiser state, unasked."""
        if state.global_step == 1:
            self._ready()
        if state.global_step and not sys.stdin.readline():
            control.should_training_stop = True
            sys.exit()
        self._started, self._sampled = perf_counter(), self._generate.seconds

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Give the figures of all steps but the first."""
        if state.global_step > 1:
            self._tell(perf_counter() - self._started, self._generate.seconds - self._sampled)


def every_other(completions: list[Any], **_: Any) -> list[float]:
    """Pays every other completion."""
    return [float(at % 2) for at in range(len(completions))]


def one_step_config(folder: str, *, tasks: int, generations: int, **more: Any) -> GRPOConfig:
    """Return a configuration in which one optimiser step plays all tasks, and nothing is reported or saved."""
    return GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=generations,
        gradient_accumulation_steps=tasks,
        num_generations=generations,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_steps=1000,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        **more,
    )


def serve_trl(policy: CausalPolicy, job: Job, prompts: list[list[list[int]]]) -> None:
    """Steps on demand over the same prompt ids, all tasks in each; generations are those of one batched call."""
    from speed_worker import Reading, Spent, say, told

    assert len(prompts) == 1, "TRL plays one stage"
    texts = [policy.hf_tokenizer.decode(ids) for ids in prompts[0]]
    reading = Reading()
    reading.watch(policy.model)

    def tell(seconds: float, sampling: float) -> None:
        say(told(Spent(seconds, sampling, seconds - sampling, prompts), reading, job))

    def ready() -> None:
        reading.places = reading.padding = 0
        say({"ready": True})

    plain: Any = policy.model.generate
    generate = Clock(lambda given: plain(**given))
    policy.model.generate = lambda **given: generate(given)  # type: ignore[assignment]  # TRL passes names only
    with TemporaryDirectory() as folder:
        config = one_step_config(
            folder,
            tasks=job.tasks,
            generations=job.generations,
            max_completion_length=job.new_tokens,
            generation_kwargs={"min_new_tokens": job.new_tokens},
        )
        trainer = GRPOTrainer(
            model=policy.model,
            processing_class=policy.hf_tokenizer,
            reward_funcs=every_other,
            args=config,
            train_dataset=Dataset.from_list([{"prompt": text} for text in texts]),
        )
        trainer.add_callback(OnDemand(generate, tell, ready))
        trainer.train()
