"""Fixtures for real peers on loopback: cached identities, and hosts that are closed after each module."""

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixture_types import IdentityOf, StartHost

from genrl_graph.runners.swarm.host import Host, PeerIdentity
from genrl_graph.runners.swarm.transport.identity import Identity
from genrl_graph.runners.swarm.transport.network import NetworkOptions

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> IdentityOf:
    """Return a function from a name to its identity, which is created once per session."""
    folder: Path = tmp_path_factory.mktemp("keys")
    return functools.cache(lambda name: Identity.load(folder / name))


@pytest.fixture(scope="module")
def start_host(key: IdentityOf) -> Iterator[StartHost]:
    """Return a function that starts a host and joins it to another; all are closed after the module's tests."""
    started: list[Host] = []

    def start(
        name: str, join: Host | None = None, *, swarm: str = "game", protocol: str = "p1", **options: Any
    ) -> Host:
        identity = options.pop("identity", None) or key(name)
        network = options.pop("network", None) or NetworkOptions(join=join.addresses if join is not None else ())
        fixed, roles = options.pop("fixed", False), options.pop("roles", ())
        play = PeerIdentity(swarm=swarm, protocol=protocol, name=name, fixed=fixed, roles=roles)
        host = Host.start(identity, play, network=network, **options)
        started.append(host)
        return host

    yield start
    for host in started:
        host.close()
