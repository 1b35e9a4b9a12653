"""A chain in the process, one for all tests, and accounts with wallets on it."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "swarm"))  # players

from chains import Chain  # beside this file


@pytest.fixture(scope="session")
def chain() -> Chain:
    """A chain, on which each test deploys a contract of its own."""
    return Chain()
