"""One rank of a gather over torch gloo, which `bench_gather` starts: prints the seconds of each repetition as JSON."""

import json
import sys
import time

import torch
from gather_rows import EXCHANGE, rows_of_size

from genrl_graph.edge_types.task import TaskBook
from genrl_graph.runners.loop.signals import Stop
from genrl_graph.runners.ranks.job import Ranks
from genrl_graph.runners.torchrun import TorchSwarm


def main() -> None:
    rank, size, wanted = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    torch.set_num_threads(1)
    ranks = Ranks(rank, size, backend="gloo", stop=Stop())
    swarm = TorchSwarm(ranks, ["gathered"], tell=print)
    found: dict[str, list[float]] = {}
    number = 0
    for kilobytes, times in wanted.items():
        rows, found[kilobytes] = rows_of_size(int(kilobytes), seed=rank), []
        for _ in range(times + 1):
            ranks.numbers(0)
            started = time.perf_counter()
            peer = swarm._names[rank]
            swarm.open(EXCHANGE, round=number, peer=peer, offer=rows)
            swarm.close(EXCHANGE, round=number, peer=peer, tasks=TaskBook({}), vocabularies={})
            found[kilobytes].append(time.perf_counter() - started)
            number += 1
    ranks.close(wait=True)
    print(json.dumps({kilobytes: times[1:] for kilobytes, times in found.items()}))


if __name__ == "__main__":
    main()
