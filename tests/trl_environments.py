"""Environments in the protocol of TRL's `environment_factory`, as they are written for its trainer: nothing of ours.

Eleven that work, of different shapes, and five that are malformed.
"""

import asyncio
import random
from typing import Any, Literal


class Counter:
    """The smallest one: the row names a target, and the reward is how close the count came."""

    def reset(self, target: int = 3, **kwargs: Any) -> None:
        self.target, self.count = target, 0

    def add(self, amount: int) -> str:
        """Add to the count.

        Args:
            amount: how much to add
        """
        self.count += amount
        return f"count {self.count}"

    def get_reward(self) -> float:
        return 1.0 - min(abs(self.target - self.count), 10) / 10


class Vault:
    """Brings its own prompt, drawn from the global random numbers, and has two tools; the last one opens."""

    def reset(self, **kwargs: Any) -> str:
        self.code, self.opened = random.randint(10, 99), False
        return "The vault has a code of two digits. Ask for hints, then open it."

    def hint(self, digit: Literal["tens", "ones"]) -> int:
        """Tell a digit of the code.

        Args:
            digit: which one
        """
        return self.code // 10 if digit == "tens" else self.code % 10

    def open(self, code: int) -> str:
        """Try to open the vault.

        Args:
            code: the code
        """
        self.opened = code == self.code
        return "open" if self.opened else "closed"

    def get_reward(self) -> float:
        return float(self.opened)


class Editor:
    """Has arguments, and columns of its rows, named like anything else in a program."""

    def reset(self, function: str = "", name: str = "", **kwargs: Any) -> None:
        self.text = f"{name}={function}"

    def call(self, function: str, arguments: str = "") -> str:
        """Apply a function to the text.

        Args:
            function: its name
            arguments: what it gets
        """
        self.text = f"{function}({self.text}{arguments})"
        return self.text


class Notebook:
    """Keeps state in a dict, and raises for what is not there; no reward of its own."""

    def __init__(self) -> None:
        self.pages: dict[str, str] = {}

    def reset(self, pages: dict[str, str] | None = None, **kwargs: Any) -> str | None:
        self.pages = dict(pages or {"first": "look at second", "second": "42"})
        return None

    def read(self, page: str) -> str:
        """Read a page.

        Args:
            page: its name
        """
        return self.pages[page]

    def write(self, page: str, text: str = "") -> dict[str, int]:
        """Write a page.

        Args:
            page: its name
            text: what it says
        """
        self.pages[page] = text
        return {"pages": len(self.pages)}


class Weather:
    """Tools that wait: async methods, and an async reward."""

    def reset(self, city: str = "Bern", **kwargs: Any) -> str:
        self.city, self.asked = city, asyncio.Event()
        return f" What is the weather in {city}?"

    async def forecast(self, city: str) -> str:
        """Look up the forecast of a city.

        Args:
            city: its name
        """
        await asyncio.sleep(0)
        if city == self.city:
            self.asked.set()
        return f"{city}: rain"

    async def get_reward(self) -> float:
        await asyncio.wait_for(self.asked.wait(), 1)
        return 1.0


class Base:
    """Inherited tools count, and so do those of the subclass."""

    limit = 5

    def reset(self, **kwargs: Any) -> str:
        self.log: list[str] = []
        return "go"

    def note(self, text: str) -> str:
        """Note a text.

        Args:
            text: what to note
        """
        self.log.append(text)
        return str(len(self.log))


class Derived(Base):
    """A subclass with a static tool, a property and a private method, of which only the first is a tool."""

    @property
    def full(self) -> bool:
        return len(self.log) >= self.limit

    @staticmethod
    def shout(text: str) -> str:
        """Write a text in capitals.

        Args:
            text: what to write
        """
        return text.upper()

    def _count(self) -> int:
        return len(self.log)

    def get_reward(self) -> float:
        return float(self._count())


class Plain:
    """No tools at all: a prompt, and a reward for nothing but having been played."""

    def reset(self, **kwargs: Any) -> str:
        return "Say hello."

    def get_reward(self) -> int:
        return 1


class Silent:
    """Says nothing at reset and returns None from its tool; the prompt is the row's."""

    def reset(self, prompt: list[dict[str, str]], **kwargs: Any) -> None:
        self.done = prompt[-1]["content"].endswith("?")

    def finish(self) -> None:
        """Finish."""
        self.done = True

    def get_reward(self) -> float:
        return float(self.done)


class Shop:
    """Arguments with defaults, lists and unions."""

    stock = {"apple": 2, "pear": 0}

    def reset(self, budget: float = 10.0, **kwargs: Any) -> str:
        self.budget, self.basket = budget, list[str]()
        return f"You have {budget:g} francs."

    def buy(self, items: list[str], amount: int | None = None) -> str:
        """Buy items.

        Args:
            items: their names
            amount: of each; one if left out
        """
        missing = [item for item in items if not self.stock.get(item)]
        if missing:
            raise ValueError(f"out of {', '.join(missing)}")
        self.basket += items * (amount or 1)
        return f"{len(self.basket)} items"

    def get_reward(self) -> float:
        return len(self.basket) / 2


class Configured:
    """Made by a factory with arguments, as `functools.partial` would."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def reset(self, **kwargs: Any) -> str:
        self.calls = 0
        return "press"

    def press(self) -> str:
        """Press the button."""
        self.calls += 1
        return f"{self.calls}"

    def get_reward(self) -> float:
        return self.scale * self.calls


def twice() -> Configured:
    """Make an environment that pays twice."""
    return Configured(scale=2.0)


def pages_read(environments: list[Notebook], **kwargs: Any) -> list[float]:
    """Reward by reading the environments, as functions beside `environment_factory` do."""
    return [float("solved" in environment.pages) for environment in environments]


async def any_row(environments: list[Notebook], prompts: list[Any], **kwargs: Any) -> list[float]:
    """Reward every episode alike, asynchronously."""
    return [0.5 for _ in prompts]


class NoReset:
    def act(self) -> str:
        """Act."""
        return "acted"


class NoDocstring(Plain):
    def act(self, what: str) -> str:
        return what


class NoTypes(Plain):
    def act(self, what) -> str:  # type: ignore[no-untyped-def]
        """Act.

        Args:
            what: what to do
        """
        return str(what)


class NoArgumentText(Plain):
    def act(self, what: str) -> str:
        """Act."""
        return what


class NarrowReset(Plain):
    def reset(self) -> str:  # type: ignore[override]
        return "go"
