"""`genrl-graph swarm bootstrap`: the rendezvous process through which peers join."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixture_types import StartHost

from genrl_graph.cli import run_command
from genrl_graph.errors import ParamError, SwarmError
from genrl_graph.runners.swarm.transport.network import NetworkOptions

Bootstrap = tuple["subprocess.Popen[str]", str]
COMMAND = [sys.executable, "-m", "genrl_graph", "swarm", "bootstrap"]


@pytest.fixture(scope="module")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bootstrap]:
    """Start a rendezvous peer; yields the process and the address to join."""
    key = tmp_path_factory.mktemp("bootstrap") / "key"
    with subprocess.Popen([*COMMAND, "--identity", str(key)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        flag, address = process.stdout.readline().split()
        assert flag == "--join"
        yield process, address
        process.kill()


def test_two_peers_meet_through_it_and_go_on_without_it(bootstrap: Bootstrap, start_host: StartHost) -> None:
    process, address = bootstrap
    ann = start_host("ann", network=NetworkOptions(join=[address]))
    bob = start_host("bob", network=NetworkOptions(join=[address]))
    assert [member.name for member in ann.look()] == [member.name for member in bob.look()] == ["ann", "bob"]
    ann.push(bob.peer_id, b"hello").result()
    children = subprocess.run(["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True)

    os.kill(process.pid, signal.SIGTERM)

    assert process.wait(timeout=10) == 0
    for pid in children.stdout.split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
    ann.push(bob.peer_id, b"still there").result()
    bob.beat(3)
    ann.beat(4)
    assert [member.name for member in ann.look()] == ["ann", "bob"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--listen", "0.0.0.0:31337"], ParamError.exit_code, "--listen 0.0.0.0:31337: is no multiaddr"),
        (["--join", "/ip4/127.0.0.1/tcp/1"], ParamError.exit_code, "says not which peer is there"),
        (["--listen", "/ip4/8.8.8.8/tcp/4001"], SwarmError.exit_code, "port 4001 cannot be used"),
    ],
)
def test_what_cannot_work_is_said_in_one_line_with_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: int, message: str
) -> None:
    assert run_command(["swarm", "bootstrap", "--identity", str(tmp_path / "key"), *options]) == code

    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_command_line_loads_no_hivemind_for_other_commands() -> None:
    code = "import genrl_graph.cli, sys; sys.exit('hivemind' in sys.modules or 'cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
