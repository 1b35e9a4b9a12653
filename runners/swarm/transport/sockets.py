"""Unix sockets in the temporary folder: their names, and removal of those that killed peers left."""

import os
import secrets
import socket
import stat
import tempfile
import time
from pathlib import Path

PREFIX = "genrl-graph-"
CLIENT_PREFIX = "hivemind-p2pclient-"  # of hivemind's client, which always uses /tmp
YOUNG_S = 60.0  # a younger socket may belong to a daemon that does not listen yet


def new_socket() -> Path:
    """Return a name for the socket of a daemon, in the temporary folder."""
    return Path(tempfile.gettempdir()) / f"{PREFIX}{secrets.token_urlsafe(8)}.sock"


def remove_dead_sockets() -> list[Path]:
    """Remove the sockets of this user's peers at which nobody listens any more, and return their paths."""
    folders = {(Path(tempfile.gettempdir()), PREFIX), (Path("/tmp"), CLIENT_PREFIX)}
    sockets = [path for folder, prefix in folders for path in folder.glob(f"{prefix}*.sock")]
    dead = [path for path in sockets if _is_ours(path) and not _listens(path)]
    for path in dead:
        path.unlink(missing_ok=True)
    return dead


def _is_ours(path: Path) -> bool:
    try:
        status = path.lstat()
    except FileNotFoundError:  # another start removed it
        return False
    return stat.S_ISSOCK(status.st_mode) and status.st_uid == os.getuid() and status.st_mtime < time.time() - YOUNG_S


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as client:
        try:
            client.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # it listens, but has no room for one more, or cannot be asked
            return True
    return True
