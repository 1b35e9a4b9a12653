"""Real peers on loopback: keys that are made once, hosts that are closed whatever a test does."""

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from genrl_graph.runners.swarm.host import Host, PeerIdentity
from genrl_graph.runners.swarm.transport.identity import Identity
from genrl_graph.runners.swarm.transport.network import NetworkOptions

StartHost = Callable[..., Host]
sys.path.append(str(Path(__file__).parent))


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Identity]:
    """The identity of a name, made once."""
    folder: Path = tmp_path_factory.mktemp("keys")
    return functools.cache(lambda name: Identity.load(folder / name))


@pytest.fixture(scope="module")
def start_host(key: Callable[[str], Identity]) -> Iterator[StartHost]:
    """Start a host that joins another one; all are closed when the module's tests have run."""
    started: list[Host] = []

    def start(name: str, join: Host | None = None, *, swarm: str = "game", protocol: str = "p1", **options) -> Host:
        identity = options.pop("identity", None) or key(name)
        network = options.pop("network", None) or NetworkOptions(join=join.addresses if join is not None else ())
        host = Host.start(identity, PeerIdentity(swarm=swarm, protocol=protocol, name=name), network=network, **options)
        started.append(host)
        return host

    yield start
    for host in started:
        host.close()
