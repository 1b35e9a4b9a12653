"""Four honest peers and eight attackers of different kinds, against four alone, and four among eight honest guests.

Twelve peers on few processors are slower than four, also where none attacks: what attackers add is the time beyond
that of the game with guests.

    OMP_NUM_THREADS=1 python tests/runners/swarm/siege.py
    OMP_NUM_THREADS=1 python tests/runners/swarm/siege.py --rounds 20 --keep runs/siege

All processes are real and connect over loopback. Prints a report, and exits with 1 if a claim does not hold.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median

sys.path.append(str(Path(__file__).parent))

from attackers import ATTACKS
from players import GATE, GATE_S, Player, Players, Usage, print_claims, wait_until
from rich.console import Console
from rich.table import Table

from genrl_graph.contract.resources import OVER_BUDGET
from genrl_graph.inspection.overview import peer_accounts
from genrl_graph.records.stored_run import open_run
from genrl_graph.runners.loop.runner import BEHIND
from genrl_graph.runners.swarm.transport.limits import TransportLimits
from genrl_graph.store.run_store import RunStore

HONEST = ("ann", "bob", "eve", "kim")
GUESTS = tuple(f"guest{number}" for number in range(len(ATTACKS)))
THIEF, EATER = "bob", "judge_eater"
TIMEOUT_S = 5.0
PACE_S = 2.0  # so that attackers, which start later and share the machine, keep up
GATE_AT = 1  # the round in which the honest peers wait until the attackers are there
JUDGE_S = 2.0
MOST_GROWTH_MB = 12.0
MOST_THREADS, MOST_FILES = 4, 4 + TransportLimits().streams_per_peer  # one attacker holds all streams that it may
GAME = f"""\
graph: siege
version: 1
carry:
  policy: {{type: policy.tiny_lm, params: {{alphabet: "0123", initializer_range: 0.1}}, next: update}}
nodes:
  tasks:
    type: source.list
    params: {{tasks: [{{question: "0", answer: "1"}}, {{question: "1", answer: "2"}}, {{question: "2", answer: "3"}}]}}
  answer:
    type: generate.answer
    inputs: {{tasks: tasks, policy: policy}}
    params: {{template: "{{{{ task.question }}}}", num_generations: 8, max_new_tokens: 1}}
  paced: {{type: select.paced, inputs: {{rows: answer}}, params: {{seconds: {PACE_S}}}}}
  shared: {{type: exchange.gather, inputs: {{rows: paced}}, params: {{min_peers: 3, timeout_s: {TIMEOUT_S}}}}}
  score: {{type: reward.math, inputs: {{rollouts: shared}}, params: {{peer_seconds: {JUDGE_S}, answer_type: formula}}}}
  credit: {{type: advantage.group, inputs: {{scored: score}}}}
  update:
    type: update.grpo
    inputs: {{policy: policy, credited: credit}}
    params: {{learning_rate: 3e-3}}
run: {{trackers: [], checkpoint_every: 10}}
"""


PACED = """
import time
from genrl_graph import R, Select

class Paced(Select, name="paced"):
    seconds: float

    def run(self, rows: R) -> R:
        time.sleep(self.seconds)
        return rows
"""


@dataclass
class Siege:
    """One game: its processes, and what the first honest peer holds, by round."""

    swarm: Players
    rounds: int
    usage: dict[int, Usage] = field(default_factory=dict)

    def play(self, *, guests: Sequence[str] = (), attacks: Sequence[str] = (), limit_s: float) -> None:
        """Play all rounds with honest guests and attackers; attackers that are still there at the end are killed."""
        opened = self.swarm.folder / "open"
        for name, text in (("gate.py", GATE), ("paced.py", PACED)):
            (self.swarm.folder / name).write_text(text)
        held, env = self._imports("gate.py", "paced.py"), {"GATE": str(opened), "GATE_AT": str(GATE_AT)}
        first = self.swarm.start("ann", *held, env=env)
        join = first.address()
        peers = [first, *(self.swarm.start(name, *held, join=join, env=env) for name in (*HONEST[1:], *guests))]
        for peer in peers:
            peer.address()  # each has its name before one of the attackers claims it
        attackers = [self._attack(kind, join) for kind in attacks]
        there = self._ready
        wait_until("the attackers offer rows", lambda: len(list(there.iterdir())) == len(attacks), limit_s=GATE_S)
        opened.touch()
        until = time.monotonic() + limit_s
        for round in (self.rounds // 4, self.rounds // 2, self.rounds - 1):
            self._reach(round, first, until)
        self.swarm.wait(*peers, limit_s=max(1.0, until - time.monotonic()))
        for attacker in attackers:
            if attacker.running:
                attacker.kill()

    @property
    def _ready(self) -> Path:
        """The folder with a file for each attacker that has offered rows."""
        folder = self.swarm.folder / "attacking"
        folder.mkdir(exist_ok=True)
        return folder

    def _attack(self, kind: str, join: str) -> Player:
        """Start an attacker in a folder of its own: one of them has the name of an honest peer."""
        name = THIEF if kind == "thief" else kind
        out = ["--peer-name", name, "-o", str(self.swarm.folder / "attackers" / kind), "--join", join]
        command = ["-m", "genrl_graph", "run", str(self.swarm.graph), "--runner", "swarm", *out]
        script = [*self._imports("paced.py"), "--import", str(Path(__file__).with_name("attackers.py"))]
        env = {"ATTACK": kind, "ATTACKING": str(self._ready), "GATE_AT": str(GATE_AT)}
        return self.swarm.launch(kind, [*command, *script, *self.swarm.arguments], env)

    def _imports(self, *names: str) -> list[str]:
        return [text for name in names for text in ("--import", str(self.swarm.folder / name))]

    def _reach(self, round: int, player: Player, until: float) -> None:
        """Wait until a peer has ended a round, and record what it holds."""
        path = self.swarm.run(player.name) / "metrics.jsonl"
        while not path.exists() or len(path.read_text().splitlines()) < round:
            if not player.running or time.monotonic() > until:
                raise SystemExit(f"{player.name} does not come to round {round}:\n{player.text[-3000:]}")
            time.sleep(0.1)
        self.usage[round] = player.usage()

    def metrics(self, name: str) -> list[dict[str, float]]:
        """Return the metrics of a peer by round."""
        lines = (self.swarm.run(name) / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def slowest(self) -> dict[str, float]:
        """Return the seconds of the slowest round of each honest peer, of those after the gate."""
        return {name: max(line["time/round"] for line in self.metrics(name)[GATE_AT + 1 :]) for name in HONEST}

    def seconds(self) -> float:
        """Return the seconds of all rounds after the gate, of the peer that took longest."""
        return max(sum(line["time/round"] for line in self.metrics(name)[GATE_AT + 1 :]) for name in HONEST)

    def unplayed(self, name: str) -> int:
        """Return the number of rounds that a peer left out."""
        steps = RunStore.open(self.swarm.run(name)).steps().to_pylist()
        left = [json.loads(step["facts"])["to"] - step["round"] for step in steps if step["node"] == BEHIND]
        return sum(left) + self.rounds - (max(step["round"] for step in steps) + 1)

    def growth(self, unit: str) -> float:
        """Return the growth of what the first peer holds in the second half of the rounds."""
        middle, last = self.usage[self.rounds // 2], self.usage[self.rounds - 1]
        return float(getattr(last, unit) - getattr(middle, unit))

    def cut(self, peer: str, of: str) -> int:
        """Return in how many rounds a peer left rows of another unjudged, because its time had ended."""
        steps = RunStore.open(self.swarm.run(peer)).steps().to_pylist()
        return sum(of in json.loads(step["facts"]).get(OVER_BUDGET, {}) for step in steps if step["node"] == "score")


def claims(calm: Siege, crowd: Siege, siege: Siege) -> Iterator[tuple[str, bool]]:
    """Yield each claim about the games, and whether it holds."""
    unplayed = {name: siege.unplayed(name) for name in HONEST}
    yield f"the honest peers play all {siege.rounds} rounds; left out: {unplayed}", not any(unplayed.values())
    rewards = {name: [line["score/reward"] for line in siege.metrics(name)] for name in HONEST}
    few = max(siege.rounds // 5, 1)
    gains = {name: mean(values[-few:]) - mean(values[:few]) for name, values in rewards.items()}
    yield f"they learn: {', '.join(f'{name} {gain:+.2f}' for name, gain in gains.items())}", min(gains.values()) > 0
    budget = 2 * TIMEOUT_S * len(ATTACKS)
    more, guests = siege.seconds() - crowd.seconds(), crowd.seconds() - calm.seconds()
    yield f"all rounds take {more:+.1f} s more than with guests ({guests:+.1f} s), of {budget:.0f} s", more <= budget
    slow, before = max(siege.slowest().values()), max(crowd.slowest().values())
    yield f"the slowest round takes {slow:.1f} s, {before:.1f} s with guests", slow <= before + budget
    for unit, most in (("rss_mb", MOST_GROWTH_MB), ("files", MOST_FILES), ("threads", MOST_THREADS)):
        grown, before = siege.growth(unit), calm.growth(unit)
        what = f"{grown:+.1f} in the second half, {before:+.1f} without attackers"
        yield f"{unit} of ann is flat: {what}", grown <= max(before, 0.0) + most
    accounts = peer_accounts(open_run(siege.swarm.run("ann")).metrics())
    yield f"the accounts name {len(accounts)} peers", {EATER, "latecomer"} <= accounts.keys()
    cut = {name: siege.cut(name, EATER) for name in HONEST}
    # one that is often late is not asked again at once, so not every peer pays for it
    yield f"the rows of {EATER} take all of its time, in rounds: {cut}", max(cut.values()) > 0


def report(calm: Siege, crowd: Siege, siege: Siege, seconds: float) -> bool:
    """Print the accounts, the times and the claims; returns whether all claims hold."""
    console = Console(width=160, highlight=False)
    table = Table(title=f"what other peers cost ann; {siege.rounds} rounds, all games in {seconds:.0f} s")
    accounts = peer_accounts(open_run(siege.swarm.run("ann")).metrics())
    for header in ("peer", "bytes", "rows", "seconds", "refused", "late"):
        table.add_column(header)
    for name, account in sorted(accounts.items(), key=lambda entry: -entry[1]["seconds"]):
        table.add_row(name, *(f"{account[unit]:.4g}" for unit in ("bytes", "rows", "seconds", "refused", "late")))
    console.print(table)
    for what, game in (("alone", calm), ("with guests", crowd), ("with attackers", siege)):
        times = [line["time/round"] for line in game.metrics("ann")[GATE_AT + 1 :]]
        console.print(f"{what}: rounds of ann take {median(times):.2f} s (median), {max(times):.2f} s at most")
        for at, usage in game.usage.items():
            console.print(f"  ann in round {at}: {usage}")
    return print_claims(console, claims(calm, crowd, siege))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--limit", type=float, default=1500.0, metavar="SECONDS", help="each of the games, at most")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the run folders and what the peers said")
    args = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        games = []
        for name, guests, attacks in (("calm", (), ()), ("crowd", GUESTS, ()), ("siege", (), tuple(ATTACKS))):
            folder = (args.keep or Path(temporary)) / name
            folder.mkdir(parents=True)
            graph = folder / "siege.yaml"
            graph.write_text(GAME)
            with Players(folder, [f"run.rounds={args.rounds}"], graph=graph) as swarm:
                games.append(Siege(swarm, args.rounds))
                games[-1].play(guests=guests, attacks=attacks, limit_s=args.limit)
        calm, crowd, siege = games
        held = report(calm, crowd, siege, time.monotonic() - started)
    raise SystemExit(0 if held else 1)


if __name__ == "__main__":
    main()
