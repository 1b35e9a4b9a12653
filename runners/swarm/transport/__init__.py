"""Libp2p and the DHT: daemon, streams, identity, signatures, limits."""

import warnings

with warnings.catch_warnings():
    # its mixture of experts, which we do not use, is compiled with torch.jit on import, and newer torch warns of that
    warnings.filterwarnings("ignore", message="`torch.jit.script`")
    import hivemind  # noqa: F401
