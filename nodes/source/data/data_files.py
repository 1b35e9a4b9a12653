"""Find the files of a local data set: only files inside its folder, found by their names.

What a folder says about itself is never followed: cards that name files, loading scripts, and links out of the folder
are refused by name, because a folder from somebody else could otherwise show any file of this machine to a policy.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from genrl_graph.errors import DataError

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
ARROW = ".arrow"
SPLIT_WORDS = {  # words in file and folder names, as on the Hugging Face hub
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_ABOUT_DATA = frozenset(("config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json"))
_CARDS = ("README.md", ".huggingface.yaml")
_CARD_LIMIT = 2**20
_NAMES_FILES = re.compile(r"\b(data_files|data_dir)[\"']?\s*:")
_SAVED = "state.json"


class DataFile(Protocol):
    """A file of rows, on disk or on the hub; `name` is its name for messages and ends in its format."""

    @property
    def name(self) -> str:
        """The name for messages."""
        ...

    def open(self) -> BinaryIO:
        """Open the file for reading."""
        ...


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file on disk."""

    path: Path

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def open(self) -> BinaryIO:
        """Open the file for reading."""
        return self.path.open("rb")


def local_files(path: str, *, name: str | None, split: str) -> list[DataFile]:
    """Return the data files at a local path in the order of their names.

    A folder is one written by `save_to_disk`, or holds data files whose names say their split; `name` is a folder in
    it. Raises `DataError` if there are none, or if anything in the folder points to other files.
    """
    place = Path(path)
    if place.is_file():
        if place.suffix.lower() not in SUFFIXES:
            given = place.suffix or "nameless"
            raise DataError(f"{place}: cannot read a {given} file; give one of {', '.join(SUFFIXES)}")
        return [LocalFile(place)]
    if not place.is_dir():
        raise DataError(f"{path}: no such file or folder; a relative path starts at the graph file")
    _refuse_card(place)
    saved = next((folder for folder in (place, place / split) if (folder / _SAVED).is_file()), None)
    if saved is not None:
        return [LocalFile(file) for file in _saved_files(saved, place)]
    folder = place if name is None else place / name
    if not folder.is_dir() or not folder.resolve().is_relative_to(place.resolve()):
        raise DataError(f"{place}: no folder {name!r} in it for the subset; leave name out, or name a folder")
    return [LocalFile(file) for file in _of_split(folder, list(_data_files(folder)), split)]


def _refuse_card(folder: Path) -> None:
    """Raise `DataError` if the folder's card names files, or a script would load it."""
    script = folder / f"{folder.resolve().name}.py"
    if script.exists():
        raise DataError(f"{script}: a loading script is never run; name a data file, or remove the script")
    for card in (folder / name for name in _CARDS):
        if not card.is_file():
            continue
        with card.open("rb") as file:
            lines = file.read(_CARD_LIMIT).decode(errors="replace").splitlines()
        is_yaml = card.suffix != ".md"
        if not is_yaml and lines[:1] != ["---"]:
            continue
        for number, line in enumerate(lines[not is_yaml :], start=1 + (not is_yaml)):
            if not is_yaml and line.rstrip() == "---":
                break
            if names := _NAMES_FILES.search(line):
                advice = "name a file or folder of the data as path, or remove it from the card"
                raise DataError(f"{card}:{number}: the card's {names[1]} is not followed; {advice}")


def _data_files(folder: Path) -> Iterator[Path]:
    """Yield the data files below a folder, sorted by path; raise `DataError` for a link that leads out of it."""
    root, files = folder.resolve(), []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        for entry in (Path(place, name) for name in (*folders, *names)):
            if entry.is_symlink() and not entry.resolve().is_relative_to(root):
                raise DataError(f"{entry}: a link that leads out of {folder}; copy what it leads to into the folder")
        files += [Path(place, name) for name in names if not name.startswith(".") and name not in _ABOUT_DATA]
    readable = (file for file in files if file.suffix.lower() in SUFFIXES and file.is_file())
    yield from sorted(readable, key=lambda file: file.relative_to(folder).as_posix())


def _of_split(folder: Path, files: Sequence[Path], split: str) -> list[Path]:
    """Return the files of a split; files whose names say no split are of `train` if no name says one."""
    if not files:
        raise DataError(f"{folder}: no data file in it; it wants {', '.join(SUFFIXES)} files")
    by_split: dict[str, list[Path]] = {}
    for file in files:
        splits = _splits_of(file.relative_to(folder).as_posix(), split)
        if len(splits) > 1:
            raise DataError(f"{file}: its name says {' and '.join(splits)}; rename it, or name the file itself as path")
        by_split.setdefault(splits[0] if splits else "", []).append(file)
    unnamed = by_split.pop("", [])
    if not by_split:
        by_split = {"train": unnamed}
    wanted = next((known for known, words in SPLIT_WORDS.items() if split in words), split)
    if wanted not in by_split:
        raise DataError(f"{folder}: no file of split {split!r}; it has {', '.join(sorted(by_split))}")
    return by_split[wanted]


def _splits_of(name: str, asked: str) -> list[str]:
    """Return the splits that the words of a relative path name."""
    words = set(re.split(r"[-._ 0-9/]+", name))
    known = SPLIT_WORDS if any(asked in words for words in SPLIT_WORDS.values()) else {**SPLIT_WORDS, asked: (asked,)}
    return [split for split, names in known.items() if words & set(names)]


def _saved_files(folder: Path, root: Path) -> list[Path]:
    """Return the Arrow files that the state of a saved data set lists; each must be a plain file of its folder."""
    state = folder / _SAVED
    try:
        entries = json.loads(state.read_text(encoding="utf-8"))["_data_files"]
        names = [entry["filename"] for entry in entries]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{state}: no state of a saved data set ({type(error).__name__}); save it again") from error
    for name in names:
        file = folder / str(name)
        inside = isinstance(name, str) and Path(name).name == name and name.endswith(ARROW)
        if not inside or not file.resolve().is_relative_to(root.resolve()):
            raise DataError(f"{state}: names {name!r}, which is no Arrow file of this folder; save the data set again")
        if not file.is_file():
            raise DataError(f"{file}: no such file, but {state.name} names it; copy the whole folder")
    return [folder / name for name in names]
