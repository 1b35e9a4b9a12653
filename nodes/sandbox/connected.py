"""Run two programs, each in a sandbox of its own, that talk to each other and to nobody else."""

import os
from contextlib import ExitStack

from genrl_graph.nodes.sandbox.limits import SandboxLimits, SandboxResult
from genrl_graph.nodes.sandbox.probe import proven_bubblewrap
from genrl_graph.nodes.sandbox.process import Running


def run_connected(
    server: str, client: str, *, server_limits: SandboxLimits, client_limits: SandboxLimits, hung_up: int
) -> SandboxResult:
    """Run `client` until it ends, with `server` at the other end of its standard input and output.

    Only what the client writes to standard error is returned: a channel that the server does not have. A client whose
    server is gone ends with the exit code `hung_up`. Raises `DataError` if the sandbox cannot contain code here, or if
    one of the two cannot be started.
    """
    bwrap = proven_bubblewrap()
    with ExitStack() as opened:
        with ExitStack() as pipes:
            requests, replies = os.pipe(), os.pipe()
            for descriptor in (*requests, *replies):
                pipes.callback(os.close, descriptor)
            serving = opened.enter_context(Running(bwrap, server, server_limits, stdin=requests[0], stdout=replies[1]))
            asking = opened.enter_context(Running(bwrap, client, client_limits, stdin=replies[0], stdout=requests[1]))
        result = asking.result()
        if result.exit_code == hung_up:
            serving.result()  # raises if that one was never started
        return result
