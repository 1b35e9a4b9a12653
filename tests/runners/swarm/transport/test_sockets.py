"""The next start removes the sockets that killed peers left in the temporary folder, and no others."""

import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from genrl_graph.runners.swarm.transport.sockets import YOUNG_S, new_socket, remove_dead_sockets


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # a socket's path has 107 bytes at most
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name)


def bound(path: Path, *, age_s: float = 2 * YOUNG_S) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    os.utime(path, (time.time() - age_s,) * 2)
    return server


def test_only_old_sockets_at_which_nobody_listens_go(folder: Path) -> None:
    dead, young, alive = new_socket(), new_socket(), new_socket()
    bound(dead).close()
    bound(young, age_s=0).close()
    other = folder / "other.sock"
    bound(other).close()
    link = new_socket()
    link.symlink_to(other)
    plain = new_socket()
    plain.write_text("a file")
    with bound(alive):
        assert dead in remove_dead_sockets()
        assert not dead.exists()
        assert all(path.exists() for path in (young, alive, other, link, plain))
        assert dead not in remove_dead_sockets()
