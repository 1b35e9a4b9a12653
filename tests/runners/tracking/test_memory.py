"""Memory of a process: it is measured, and freed memory returns to the system."""

import ctypes
import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from genrl_graph.runners.tracking.memory import memory

HOLES = """
import os, sys
from genrl_graph.allocator import release_memory
from genrl_graph.runners.tracking.memory import settle_memory
if sys.argv[1] == "settled":
    settle_memory()
import torch
kept = []
for _ in range(100):  # 8 MB that go, then 8 kB that stay: holes that no larger tensor fills
    gone = torch.ones(2_000_000)
    kept.append(torch.ones(2_000))
    del gone
many = [(torch.ones(2_000_000), torch.ones(2_000)) for _ in range(50)]
kept += [small for _, small in many]
del many
if sys.argv[1] == "released":
    release_memory()
with open("/proc/self/status") as status:  # without the pages of torch's files, which the system keeps or drops
    (held,) = [int(line.split()[1]) * 1024 / 1e9 for line in status if line.startswith("RssAnon")]
print(held, os.environ.get("THP_MEM_ALLOC_ENABLE"))
"""
HEAPS = """
import ctypes, sys
from threading import Barrier, Thread
from genrl_graph.runners.tracking.memory import settle_memory
settle_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
def tell():
    file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
    libc.malloc_info(0, file)
    libc.fclose(file)
    print(open(sys.argv[1]).read().count("<heap nr="))
tell()
together = Barrier(8)
def work():
    libc.malloc(1000)
    together.wait()
threads = [Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
tell()
"""
SHAPES = """
from genrl_graph.runners.tracking.memory import memory, settle_memory
settle_memory()
import torch
torch.set_num_threads(1)
weight = torch.ones(96, 64).bfloat16()
def play(lengths):
    for length in lengths:
        torch.nn.functional.linear(torch.ones(length, 64).bfloat16(), weight)
with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON_CREATION):
    play(range(100, 500))
    before = memory()["memory/rss_gb"]
    play(range(500, 900))
    print("gigabytes", memory()["memory/rss_gb"] - before)
    play(range(500, 900))
    play(range(700, 900))
"""
glibc = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no such settings"
)
makes_code = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512", reason="oneDNN makes no code for bfloat16 on this processor"
)


@functools.cache  # a process imports torch, and two tests compare with the same one
def held(how: str, **variables: str) -> tuple[float, str]:
    """Gigabytes that a process holds once its large tensors are gone, and whether torch uses huge pages."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "THP_"))}
    ran = subprocess.run(
        [sys.executable, "-c", HOLES, how], env=environment | variables, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    size, huge = ran.stdout.split()
    return float(size), huge


def test_the_peak_is_no_less_than_what_is_held() -> None:
    found = memory()
    assert 0.01 < found["memory/rss_gb"] <= found["memory/peak_gb"] + 0.01


@glibc
@pytest.mark.long
def test_large_tensors_leave_no_holes() -> None:
    plain, settled = held("plain")[0], held("settled")[0]
    assert settled < plain - 0.2, (settled, plain)


@pytest.mark.long
@glibc
def test_what_is_free_between_tensors_is_given_back() -> None:
    plain, released = held("plain")[0], held("released")[0]
    assert released < plain - 0.2, (released, plain)


@glibc
@pytest.mark.parametrize(("variables", "more"), [({}, False), ({"MALLOC_ARENA_MAX": "1000"}, True)])
def test_threads_share_the_heaps_that_there_are(variables: dict[str, str], more: bool, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    command = [sys.executable, "-c", HEAPS, str(tmp_path / "heaps.xml")]
    ran = subprocess.run(command, env=environment | variables, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    before, after = map(int, ran.stdout.split())
    assert (after > before) == more, (before, after)


@pytest.mark.long
@glibc
def test_what_the_variables_say_stays() -> None:
    size, huge = held("settled", MALLOC_MMAP_THRESHOLD_="33554432", THP_MEM_ALLOC_ENABLE="0")
    assert huge == "0"
    assert size > held("settled")[0] + 0.2


def kept(**variables: str) -> tuple[int, float]:
    """Of 600 products whose shapes were played before, those that found their code; gigabytes of 400 new shapes."""
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_CACHE_CAPACITY")}
    ran = subprocess.run(
        [sys.executable, "-c", SHAPES], env=environment | variables, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    again, new = (ran.stdout.count(f"create:cache_{how},cpu,matmul") for how in ("hit", "miss"))
    assert again + new == 1400, ran.stdout[:1000]
    (size,) = re.findall(r"^gigabytes (\S+)$", ran.stdout, re.MULTILINE)
    return again, float(size)


@pytest.mark.long
@makes_code
def test_code_for_matrix_products_is_kept_for_so_many_shapes() -> None:
    """The last 200 shapes are found again, the last 400 are not: half a megabyte each, 0.2 GB where all are kept."""
    again, size = kept()
    assert again == 200
    assert size < 0.1


@pytest.mark.long
@makes_code
@pytest.mark.parametrize(("name", "found"), [("ONEDNN_PRIMITIVE_CACHE_CAPACITY", 600), ("LRU_CACHE_CAPACITY", 200)])
def test_what_the_variables_say_of_code_stays(name: str, found: int) -> None:
    """Of the two caches either one alone keeps what the other lets go."""
    again, size = kept(**{name: "1024"})
    assert again == found
    assert size > 0.15
