"""No key and no password is left anywhere: run folder, logs, errors, lists of processes. A real run, a served chain."""

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from chains import Chain, key
from eth_account import Account

from genrl_graph.runners.chain.serve import serving
from genrl_graph.runners.chain.wallet import KEY, PASSWORD
from genrl_graph.store.outbox import read_outbox

ROOT = Path(__file__).parents[3]
SECRET, WORD = key(1), "battery staple 4711"
FORMS = (
    *(SECRET.encode(), SECRET.upper().encode(), bytes.fromhex(SECRET), str(int(SECRET, 16)).encode()),
    *(base64.b64encode(bytes.fromhex(SECRET)).rstrip(b"="), hex(int(SECRET, 16))[2:].encode(), WORD.encode()),
)
"""The key as a file or a log may have it, and the password."""


class Watched:
    """Processes, whose output and command lines are kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.texts: list[bytes] = []

    def run(self, *command: str, env: Mapping[str, str]) -> int:
        """Run a command of the package to its end, looking at all lists of arguments meanwhile."""
        clean = {name: value for name, value in os.environ.items() if name not in (KEY, PASSWORD)}
        paths = {"PYTHONPATH": str(ROOT), "TMPDIR": str(self._folder)}
        with subprocess.Popen(
            [sys.executable, "-m", "genrl_graph", *command],
            env={**clean, **paths, **env},
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            while process.poll() is None:
                self.texts += command_lines()
                time.sleep(0.1)
            assert process.stdout is not None
            self.texts.append(process.stdout.read())
            return process.returncode


def command_lines() -> Iterator[bytes]:
    """Yield the arguments of all processes of this machine."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes()
        except OSError:  # it has ended
            continue


@pytest.mark.long
def test_no_key_is_left_by_runs_that_succeed_and_that_fail(chain: Chain, tmp_path: Path) -> None:
    client, account = chain.deploy(), Chain.account(SECRET)
    chain.node.fund(account)
    keystore = tmp_path / "keys" / "wallet.json"
    keystore.parent.mkdir()
    keystore.write_text(json.dumps(Account.encrypt(SECRET, WORD, kdf="pbkdf2", iterations=10)))
    home, watched = tmp_path / "home", Watched(tmp_path / "home")
    home.mkdir()
    small = ("run.peers=1", "nodes.tasks.params.num_tasks=2", "nodes.answer.params.num_generations=2")

    def coordinated(name: str, rounds: int, env: Mapping[str, str], *options: str, **file: object) -> int:
        (home / f"{name}.yaml").write_text(json.dumps(good | file))
        command = ("run", "coordinated", "-o", f"runs/{name}", "--coordinator", f"{name}.yaml", *small, *options)
        return watched.run(*command, f"run.rounds={rounds}", env=env)

    with serving(chain.node) as url:
        good = {"endpoint": url, "contract": client.address, "chain_id": chain.node.chain_id, "drain_s": 60.0}
        by_key, by_file = {KEY: SECRET}, {PASSWORD: WORD}
        assert coordinated("good", 1, by_key) == 0
        assert {entry.state for entry in read_outbox(home / "runs" / "good").entries.values()} == {"done"}
        assert coordinated("file", 1, by_file, keystore=str(keystore), chain_id=5) != 0
        assert coordinated("word", 1, {PASSWORD: WORD + "!"}, keystore=str(keystore)) != 0
        assert coordinated("cut", 1, {KEY: SECRET[:-1]}) != 0
        assert coordinated("fails", 1, by_key, "nodes.score.params.pattern=(") != 0
        assert watched.run("chain", "status", "--coordinator", "good.yaml", "runs/good", env=by_key) == 0
    assert coordinated("down", 2, by_key) != 0
    assert watched.run("store", "verify", "runs/good", env=by_key) == 0
    files = [path for path in home.rglob("*") if path.is_file()]
    assert len(files) > 20 and len(watched.texts) > 50
    assert any(b"genrl_graph" in text for text in watched.texts)
    for form in (*FORMS, SECRET[:-1].encode()):
        assert not [path for path in files if form in path.read_bytes()]
        assert not [text for text in watched.texts if form in text]
