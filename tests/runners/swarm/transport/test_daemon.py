"""The libp2p daemon is stopped in bounded time, whatever it and its children do."""

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from genrl_graph.runners.swarm.transport.daemon import STOP_S, Daemon

CHILDREN = {
    "deaf": "trap '' TERM; echo started; while :; do sleep 0.1; done",
    "leaves a process that holds its output": "sleep 100 & echo started; exit 3",
    "floods its output": "sleep 100 & echo started; exec yes",
}


@pytest.mark.parametrize("child", CHILDREN)
def test_stopping_takes_seconds(child: str, tmp_path: Path) -> None:
    async def seconds_to_stop() -> float:
        process = await asyncio.create_subprocess_exec(
            *["sh", "-c", CHILDREN[child]], stdout=asyncio.subprocess.PIPE, process_group=0
        )
        daemon = Daemon(process, tmp_path / "socket")
        while not daemon._said:
            await asyncio.sleep(0.01)
        began = time.monotonic()
        await daemon.stop()
        seconds = time.monotonic() - began
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what the child has left
        await asyncio.sleep(0.05)
        return seconds

    assert asyncio.run(seconds_to_stop()) < 3 * STOP_S


def test_its_last_words_cannot_act_on_the_terminal(tmp_path: Path) -> None:
    async def words() -> str:
        process = await asyncio.create_subprocess_exec(
            *["printf", r"panic: \033]0;owned\007 \302\233 \342\200\256"],
            stdout=asyncio.subprocess.PIPE,
        )
        daemon = Daemon(process, tmp_path / "socket")
        await daemon._reader
        return daemon.last_words()

    said = asyncio.run(words())
    assert "panic: " in said and said.isprintable()
