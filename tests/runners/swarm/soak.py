"""Eight peers, a hundred rounds: two are killed and restarted, one joins half-way, one is hostile, one often late.

    OMP_NUM_THREADS=1 python tests/runners/swarm/soak.py
    OMP_NUM_THREADS=1 python tests/runners/swarm/soak.py --rounds 20 --keep runs/soak

All processes are real and connect over loopback. Prints a report, and exits with 1 if a claim does not hold.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

sys.path.append(str(Path(__file__).parent))

from players import SLOW, TINY, Player, Players, Usage, print_claims
from rich.console import Console
from rich.table import Table

from genrl_graph.runners.loop.runner import BEHIND
from genrl_graph.store.run_store import RunStore

STEADY = ("ann", "bob", "eve")
KILLED = ("carol", "frank")
LATE, JOINS, HOSTILE, ALONE = "sloth", "dave", "mallory", "alone"
GOOD = (*STEADY, *KILLED, LATE, JOINS)
EVERY = 5
TIMEOUT_S, SLOW_S = 5.0, 8.0
GAME = (
    "nodes.tasks.params.num_tasks=4",
    *(f"nodes.{name}.params.num_generations=4" for name in ("answer", "critique", "final")),
    *(
        f"nodes.{name}.params.{param}"
        for name in ("answers", "critiques")
        for param in (f"timeout_s={TIMEOUT_S}", "min_peers=4")
    ),
    "nodes.update.params.learning_rate=0.005",
    "run.checkpoint_every=10",
    "run.trackers=[]",
)
WANTED = {"peer", "round", "node", "finite", "lengths", "tokens", "hash", "task", "name", "stream", "protocol"}
WANTED |= {"signed message", "announcement", "head"}
"""Rules that a hostile peer breaks in every run; others depend on when it is heard."""
MOST_GROWTH = {"rss_mb": 8, "files": 4, "threads": 4, "daemon_mb": 16, "daemon_files": 8}
"""The most that an honest peer may grow in the second half beyond what a run without a swarm does."""


@dataclass
class Watched:
    """Observations of a running swarm: rounds reached, and what a peer holds then."""

    swarm: Players
    rounds: int
    until: float
    usage: dict[str, dict[int, Usage]] = field(default_factory=dict)

    def round_of(self, name: str) -> int:
        """Return the number of rounds that a peer has ended, abandoned ones included."""
        path = self.swarm.run(name) / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return max((json.loads(line)["round"] + 1 for line in lines[-1:]), default=0)

    def reach(self, round: int, *, of: Player) -> None:
        """Wait until a peer has ended `round` rounds, and record what it holds."""
        while (at := self.round_of(of.name)) < round:
            if not of.running:
                raise SystemExit(f"{of.name} ended with {of.process.poll()}:\n{of.text[-3000:]}")
            if time.monotonic() > self.until:
                raise SystemExit(f"out of time: {of.name} is in round {at}, not {round}")
            time.sleep(0.1)
        self.usage.setdefault(of.name, {})[round] = of.usage()

    def growth(self, name: str, unit: str) -> float:
        """Return the growth of what a process holds in the second half of the rounds."""
        middle, last = self.usage[name][self.rounds // 2], self.usage[name][self.rounds - 1]
        return float(getattr(last, unit) - getattr(middle, unit))


def play(swarm: Players, folder: Path, *, rounds: int, limit_s: float) -> Watched:
    """Play all rounds, with the scheduled kills, restarts and joins."""
    (folder / "slow.py").write_text(SLOW)
    here = Path(__file__).parent
    first = swarm.start("ann")
    join = first.address()
    peers = {name: swarm.start(name, join=join) for name in ("bob", "eve", *KILLED)}
    env = {"SLOW_S": str(SLOW_S), "SLOW_EVERY": str(EVERY), "SLOW_AT": str(EVERY - 1)}
    peers[LATE] = swarm.start(LATE, "--import", str(folder / "slow.py"), join=join, env=env)
    hostile = swarm.start(HOSTILE, "--import", str(here / "hostile.py"), join=join)
    watched = Watched(swarm, rounds, time.monotonic() + limit_s)
    events = {
        rounds // 10: [],
        rounds // 5: [("kill", KILLED[0])],
        rounds // 4: [("restart", KILLED[0])],
        rounds // 2: [("start", JOINS)],
        6 * rounds // 10: [("kill", KILLED[1])],
        65 * rounds // 100: [("restart", KILLED[1])],
        rounds - 1: [],
    }
    for round, happens in sorted(events.items()):
        watched.reach(round, of=first)
        for what, name in happens:
            print(f"round {round}: {what} {name}", flush=True)
            if what == "kill":
                peers[name].kill()
            else:
                more = ("--resume",) if what == "restart" else ()
                peers[name] = swarm.start(name, *more, join=join)
    left = watched.until - time.monotonic()
    swarm.wait(first, *peers.values(), limit_s=max(left, 1.0))
    if hostile.running:
        hostile.kill()
    play_alone(watched)
    return watched


def play_alone(watched: Watched) -> None:
    """Play the same game with two peers in one process, as the baseline for memory growth."""
    alone = ["run.peers=2", *(f"nodes.{name}.params.min_peers=1" for name in ("answers", "critiques"))]
    run = ["-o", str(watched.swarm.run(ALONE)), *watched.swarm.arguments, *alone]
    player = watched.swarm.launch(ALONE, ["-m", "genrl_graph", "run", str(TINY), *run], {})
    for round in (watched.rounds // 10, watched.rounds // 2, watched.rounds - 1):
        watched.reach(round, of=player)
    watched.swarm.wait(player, limit_s=60)


@dataclass
class Told:
    """The results of one peer, from its run store."""

    name: str
    played: int
    last: int
    left: list[tuple[int, int]]
    rewards: dict[int, float]
    refusals: Counter[tuple[str, str]]
    missing: Counter[tuple[str, str]]

    @classmethod
    def read(cls, name: str, run: Path) -> "Told":
        """Read the results from a run folder."""
        store = RunStore.open(run)
        steps = store.steps().to_pylist()
        rewards: dict[int, list[float]] = {}
        missing: Counter[tuple[str, str]] = Counter()
        left = []
        for step in steps:
            facts = json.loads(step["facts"])
            missing.update(facts.get("missing", {}).items())
            if step["node"] == BEHIND:
                left.append((step["round"], facts["to"]))
            if step["node"].startswith("score_") and "reward" in facts.get("metrics", {}):
                rewards.setdefault(step["round"], []).append(float(facts["metrics"]["reward"]))
        refusals = Counter(
            (row["peer"], row["rule"])
            for group in store.groups()
            if group.endswith("/refusals")
            for row in store.table(group).to_pylist()
        )
        rounds = {step["round"] for step in steps if step["node"] == "update"}
        sums = {round: sum(values) for round, values in rewards.items()}
        return cls(name, len(rounds), max(step["round"] for step in steps), left, sums, refusals, missing)

    def reward(self, of: range) -> float:
        """Return the mean, over rounds, of the reward summed over the three stages."""
        return mean(value for round, value in self.rewards.items() if round in of)


def claims(told: dict[str, Told], watched: Watched) -> Iterator[tuple[str, bool]]:
    """Yield each claim about the run, and whether it holds."""
    rounds = watched.rounds
    ends = [peer.last == rounds - 1 or any(to == rounds for _, to in peer.left) for peer in told.values()]
    yield f"{len(GOOD)} good peers come to round {rounds}", all(ends)
    ten = max(rounds // 10, 1)
    starts = {name: mean(list(peer.rewards.values())[:ten]) for name, peer in told.items()}
    yield (
        "each of them learns",
        all(peer.reward(range(rounds - ten, rounds)) > starts[name] for name, peer in told.items() if name != JOINS),
    )
    refused = sum((peer.refusals for peer in told.values()), Counter())
    rules = {rule for name, rule in refused if name == HOSTILE}
    yield f"the stores name {len(rules)} rules that {HOSTILE} broke", rules >= WANTED
    wrongly = {(name, rule) for name, rule in refused if name in GOOD and rule != "round"}
    yield f"no good peer is refused, but for what came too late {sorted(wrongly) or ''}", not wrongly
    late = {name: sum(peer.missing[LATE, "late"] for peer in told.values()) for name in (LATE,)}
    yield f"{LATE} is named late", late[LATE] >= rounds // EVERY // 2
    for name in KILLED:
        named = sum(count for peer in told.values() for (who, _), count in peer.missing.items() if who == name)
        yield f"{name}, killed, is named missing", named > 0
        yield f"{name}, restarted, goes on", told[name].played > rounds // 2
    yield f"{JOINS} joins half-way", any(to >= rounds // 2 - 1 for _, to in told[JOINS].left)
    for unit, most in MOST_GROWTH.items():
        grown, alone = watched.growth("ann", unit), watched.growth(ALONE, unit)
        what = f"{grown:+.1f} in the second half, {alone:+.1f} without a swarm"
        yield f"{unit} of ann is flat: {what}", grown <= max(alone, 0.0) + most


def report(told: dict[str, Told], watched: Watched, seconds: float) -> bool:
    """Print the tables and claims; returns whether all claims hold."""
    console = Console(width=160, highlight=False)
    ten = max(watched.rounds // 10, 1)
    table = Table(title=f"{len(told)} good peers and {HOSTILE}, {watched.rounds} rounds in {seconds:.0f} s")
    for header in ("peer", "rounds", "left", f"reward, first {ten}", f"last {ten}", "refusals", "missing at it"):
        table.add_column(header)
    for name, peer in told.items():
        first = mean(list(peer.rewards.values())[:ten])
        last = peer.reward(range(watched.rounds - ten, watched.rounds))
        missing = Counter[str]()
        for (who, why), count in peer.missing.items():
            missing[f"{who} {why}"] += count
        told_missing = ", ".join(f"{what} {count}" for what, count in missing.most_common(6))
        values = (len(peer.left), f"{first:.3f}", f"{last:.3f}", peer.refusals.total(), told_missing)
        table.add_row(name, str(peer.played), *map(str, values))
    console.print(table)
    refused = sum((peer.refusals for peer in told.values()), Counter())
    by_rule = Table(title="refusals, all stores together")
    for header in ("peer", "rule", "count"):
        by_rule.add_column(header)
    for (name, rule), count in sorted(refused.items()):
        by_rule.add_row(name, rule, str(count))
    console.print(by_rule)
    for name, seen in watched.usage.items():
        for round, usage in sorted(seen.items()):
            console.print(f"{name} in round {round}: {usage}")
    return print_claims(console, claims(told, watched))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--limit", type=float, default=720.0, metavar="SECONDS", help="all of it, at most")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the run folders and what the peers said")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the graph")
    args = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        arguments = [*GAME, f"run.rounds={args.rounds}", *args.overrides]
        with Players(folder, arguments) as swarm:
            watched = play(swarm, folder, rounds=args.rounds, limit_s=args.limit)
        told = {name: Told.read(name, swarm.run(name)) for name in GOOD}
        held = report(told, watched, time.monotonic() - started)
    raise SystemExit(0 if held else 1)


if __name__ == "__main__":
    main()
