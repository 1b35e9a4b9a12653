"""Every error that the project raises on purpose.

    GenrlGraphError
    ├── UserError                a mistake in what the user wrote; nothing is lost
    │   ├── GraphError      2    the graph: names, types, wiring, cycles, hazards
    │   ├── ParamError      3    a value: params of a node, keys of `run`, flags of the command line
    │   ├── NodeError       4    a node class that breaks the contract
    │   └── ColumnError     5    rows that do not fit the columns of their edge type
    ├── WorldError               a problem outside the program
    │   ├── DataError      10    a data set or model: missing, unreadable, empty, without the requested column
    │   ├── ExchangeTimeout 11   too few peers answered in time
    │   ├── StoreError     12    a run folder: taken, broken, of another version
    │   ├── PeerRefused    13    a peer that breaks the protocol
    │   ├── SwarmError     14    the connection to other peers: identity, addresses, daemon, streams
    │   ├── RoundsSkipped  15    a run that came to its end, but left rounds out because the swarm was ahead
    │   ├── CellsFailed    16    a sweep that came to its end, but with cells that failed
    │   └── ChainError     17    a chain or its contract: unreachable, another one, or without what is needed
    └── NodeFailed         20    a node that failed while it ran
        ├── RewardFailed   21    a reward that raised, hung, returned too few values or judged nothing
        └── TooManyFailed  22    more rows failed, or could not be judged, than the run allows

The number is the exit code of the command line. A message is one line: where, what (with the offending value), what
to do.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class GenrlGraphError(Exception):
    """Base of all errors that the project raises on purpose; `exit_code` is the exit code of the command line."""

    exit_code = 1


class UserError(GenrlGraphError):
    """A graph, param, node class or table that the user wrote cannot be used."""


class GraphError(UserError):
    """The graph cannot be played."""

    exit_code = 2


class ParamError(UserError):
    """A param, a key of `run` or a command-line flag has a value that is not allowed."""

    exit_code = 3


class NodeError(UserError):
    """A node class breaks the contract of its kind."""

    exit_code = 4


class ColumnError(UserError):
    """Rows do not fit the columns that their edge type declares."""

    exit_code = 5


class WorldError(GenrlGraphError):
    """Something outside the program is missing, broken or late."""


class DataError(WorldError):
    """A data set or model is missing, unreadable or empty, or lacks a requested column."""

    exit_code = 10


class ExchangeTimeout(WorldError):
    """An exchange ended with fewer peers than it needs."""

    exit_code = 11


class StoreError(WorldError):
    """A run folder cannot be created, read or written."""

    exit_code = 12


class PeerRefused(WorldError):
    """A peer breaks the protocol."""

    exit_code = 13


class SwarmError(WorldError):
    """This peer cannot take part in the swarm, or cannot reach another peer."""

    exit_code = 14


class RoundsSkipped(WorldError):
    """A peer came to the end of its run, but did not play all rounds, because the swarm was in a later one."""

    exit_code = 15


class CellsFailed(WorldError):
    """A sweep came to its end, but some of its cells failed; the others are complete."""

    exit_code = 16


class ChainError(WorldError):
    """A chain cannot be used: its endpoint, the contract, the wallet."""

    exit_code = 17


class NodeFailed(GenrlGraphError):
    """A node raised while it ran; the message names the node, the round and the peer."""

    exit_code = 20


class RewardFailed(NodeFailed):
    """A reward raised, hung, returned the wrong number of values, or could judge nothing."""

    exit_code = 21


class TooManyFailed(NodeFailed):
    """More rows failed, or could not be judged, than `run.max_failed_share` or `run.max_failed_rows` allows."""

    exit_code = 22


@contextmanager
def named(where: str) -> Iterator[None]:
    """Prefix errors of this module that the block raises with `<where>: `."""
    try:
        yield
    except GenrlGraphError as error:
        raise type(error)(f"{where}: {error}") from error
