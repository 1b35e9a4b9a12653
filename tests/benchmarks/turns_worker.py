"""One contender of `bench_turns`, `ours` or `trl`: a process that takes optimiser steps on `Walk`, one for each line.

Random weights call no tool, so both read every completion as the same call. The first step, which makes the optimiser
state, is not told of.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

from speed_game import endless
from speed_worker import say
from turns_game import TurnsJob, Walk, tool_template, walk_graph

from genrl_graph.contract.tool_chat import ToolCall
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.runners.tracking.memory import memory, settle_memory

TOOL, ARGUMENTS = "go", {"way": "left"}


def ours(job: TurnsJob, folder: Path) -> Callable[[], None]:
    """Return a round of this project's runner, with a store."""
    from genrl_graph.contract import registry
    from genrl_graph.contract.node import Source
    from genrl_graph.dag.schedule import compile_graph
    from genrl_graph.edge_types.task import TaskBook
    from genrl_graph.nodes.generate.speaking.toolbox import Toolbox
    from genrl_graph.runners.loop.context import RunContext
    from genrl_graph.runners.loop.exchange import LocalSwarm
    from genrl_graph.runners.loop.peers import Peer
    from genrl_graph.runners.loop.round import run_round
    from genrl_graph.store.run_store import RunStore

    Toolbox.read = lambda self, prompt_ids, completion: [ToolCall(TOOL, ARGUMENTS)]  # type: ignore[method-assign]
    registry.import_file(Path(__file__).with_name("turns_game.py"))
    schedule = compile_graph(walk_graph(job))
    for node in schedule.nodes.values():
        node.prepare()
    store = RunStore.create(folder / "run", schedule.graph.dump(), {})
    policy = schedule.graph.carries["policy"].carry.init("policy", seed=0)
    assert isinstance(policy, CausalPolicy)
    sources = {name: node for name, node in schedule.nodes.items() if isinstance(node, Source)}
    peer = Peer("peer0000", {"policy": endless(policy)}, TaskBook(sources))
    context = RunContext(schedule=schedule, swarm=LocalSwarm(["peer0000"]), seed=0, commit=store.commit)
    rounds = iter(range(10**6))
    return lambda: run_round(context, [peer], next(rounds))


def serve_ours(job: TurnsJob) -> None:
    """Play a round for each line."""
    settle_memory()  # as the command line does
    with TemporaryDirectory() as folder:
        step = ours(job, Path(folder))
        step()
        say({"ready": True})
        for _ in sys.stdin:
            before = process_time()
            step()
            tell(process_time() - before)


def serve_trl(job: TurnsJob) -> None:
    """Take a step of TRL's trainer for each line."""
    from datasets import Dataset
    from speed_trl import one_step_config
    from transformers import TrainerCallback
    from trl import GRPOTrainer
    from trl.trainer import grpo_trainer

    call = {"type": "function", "function": {"name": TOOL, "arguments": ARGUMENTS}}
    grpo_trainer.parse_response = lambda *_, **__: {"role": "assistant", "content": "", "tool_calls": [call]}

    class OnDemand(TrainerCallback):
        before = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 1:
                say({"ready": True})
            if state.global_step and not sys.stdin.readline():
                sys.exit()
            self.before = process_time()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step > 1:
                tell(process_time() - self.before)

    plain = {"compute_dtype": "float32", "share_prefixes": False} if job.model == "smollm2" else {}
    policy = job.carry(**plain).init("policy", seed=0)
    assert isinstance(policy, CausalPolicy)
    policy.hf_tokenizer.chat_template = tool_template()
    with TemporaryDirectory() as folder:
        config = one_step_config(
            folder,
            tasks=job.tasks,
            generations=job.generations,
            max_completion_length=4096,
            max_tool_calling_iterations=job.turns - 1,
            generation_kwargs={"min_new_tokens": job.new_tokens, "max_new_tokens": job.new_tokens},
        )
        prompts = [{"prompt": [{"role": "user", "content": ""}]} for _ in range(job.tasks)]
        trainer = GRPOTrainer(
            model=policy.model,
            processing_class=policy.hf_tokenizer,
            args=config,
            train_dataset=Dataset.from_list(prompts),
            environment_factory=Walk,
        )
        trainer.add_callback(OnDemand())
        trainer.train()


def tell(seconds: float) -> None:
    """Give the seconds of the processor that a step took, and the peak memory so far."""
    say({"seconds": seconds, "peak_gb": memory()["memory/peak_gb"]})


if __name__ == "__main__":
    sys.stdout = sys.stderr  # what libraries print is no answer
    {"ours": serve_ours, "trl": serve_trl}[sys.argv[1]](TurnsJob.of(json.loads(sys.argv[2])))
