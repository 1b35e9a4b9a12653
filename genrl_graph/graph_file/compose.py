"""Compose a graph file, its defaults list and command line overrides into one document.

Hydra resolves which files take part, in which order and at which key (defaults lists, groups, packages), and
parses the overrides. This module reads and merges the files itself: values and positions come from one tree, and
text such as `${x^2}` in a prompt is not an interpolation.
"""

import difflib
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from genrl_graph.errors import GraphError, UserError
from genrl_graph.graph_file.document import Document, Position, parse_document
from genrl_graph.graph_file.draft import Draft, kind
from genrl_graph.graph_file.overrides import (
    HYDRA_KEYS,
    apply_override,
    override_error,
    override_position,
    parse_override,
)


def load_document(path: pathlib.Path, overrides: Sequence[str] = ()) -> Document:
    """Return the document of a YAML graph file, composed by its `defaults` list, with overrides on top.

    Overrides follow Hydra's grammar (`a.b=1`, `+a.b=1`, `~a.b`, `group=option`) and also set keys that no file
    mentions. Raises GraphError for a file that cannot be read or composed, ParamError for an override.
    """
    main = parse_document(_read(path), file=_shown(path))
    if not overrides and not any(key in main.values for key in HYDRA_KEYS):
        return main  # nothing to compose: skip the slow import of Hydra
    with _hydra_state():
        draft, files = _compose(path, main, [parse_override(text) for text in overrides])
    for key in HYDRA_KEYS:
        draft.discard((key,))
    return draft.finish(files)


def override_document(document: Document, overrides: Sequence[str]) -> Document:
    """Return a document that is not composed of files, with overrides on top."""
    draft = Draft.of(document)
    with _hydra_state():
        for override in map(parse_override, overrides):
            apply_override(draft, override)
    return draft.finish(document.files)


def _compose(path: pathlib.Path, main: Document, overrides: list[Any]) -> tuple[Draft, tuple[str, ...]]:
    draft, files = Draft.of(main), main.files
    if "defaults" in main.values:
        composition = _ComposedFiles(path, main)
        draft = Draft(positions={(): main.positions[()]})
        overrides, merged = composition.merge_into(draft, overrides)
        files = tuple(dict.fromkeys((*files, *merged)))
    for override in overrides:
        apply_override(draft, override)
    return draft, files


class _ComposedFiles:
    """The files of one composition, each read once, by the name that Hydra uses for them."""

    def __init__(self, path: pathlib.Path, main: Document) -> None:
        self.path = path
        self.main = path.stem
        self.documents = {self.main: main}
        if path.suffix != ".yaml":
            where = main.key_at(("defaults",))
            raise GraphError(f"{where}: only a .yaml file can have 'defaults'; name it '{self.main}.yaml'")

    def merge_into(self, draft: Draft, overrides: Sequence[Any]) -> tuple[list[Any], list[str]]:
        """Merge the files into the draft in Hydra's order; return the remaining overrides and the merged files."""
        self._check_defaults(self.documents[self.main])
        resolved = self._resolve(overrides)
        merged: list[str] = []
        for default in resolved.defaults:
            if default.config_path.startswith("hydra/"):
                continue
            if default.config_path not in self.documents:
                where = self.documents[self.main].key_at(("defaults",))
                raise GraphError(f"{where}: '{default.config_path}' is no file; put it beside the graph file")
            package = tuple(default.package.split(".")) if default.package else ()
            draft.merge(self.documents[default.config_path], package)
            merged.extend(self.documents[default.config_path].files)
        return list(resolved.config_overrides), merged

    def _resolve(self, overrides: Sequence[Any]) -> Any:
        """Return Hydra's defaults list: the files in merge order with their packages, and the other overrides."""
        import hydra
        from hydra.core.global_hydra import GlobalHydra
        from hydra.errors import HydraException, MissingConfigException
        from hydra.types import RunMode
        from omegaconf.errors import OmegaConfBaseException

        self._check_choices(overrides)
        lines = [override.input_line for override in overrides]
        with hydra.initialize_config_dir(config_dir=str(self.path.parent.absolute()), version_base=None):
            loader = GlobalHydra.instance().config_loader()
            for source in loader.get_sources():
                if source.provider == "main":
                    source.load_config = self._loader_for(source)
            try:
                return loader.compute_defaults_list(self.main, lines, RunMode.RUN)
            except MissingConfigException as error:
                raise self._missing(error.missing_cfg_file, str(error), overrides) from error
            except RecursionError as error:
                raise self._refused("the defaults lists include one another in a circle", overrides) from error
            except (HydraException, OmegaConfBaseException, ValueError) as error:
                raise self._refused(str(error), overrides) from error

    def _loader_for(self, source: Any) -> Callable[[str], Any]:
        """Return the function that reads files for Hydra: our parser, which passes on headers and defaults lists."""
        from hydra.plugins.config_source import ConfigResult
        from omegaconf import OmegaConf

        def load_config(config_path: str) -> Any:
            file = self._file(config_path)
            text = _read(file)
            if config_path not in self.documents:
                self.documents[config_path] = parse_document(text, file=_shown(file), empty_ok=True)
                self._check_defaults(self.documents[config_path])
            try:
                header = source._get_header_dict(text[:512])
            except ValueError as error:
                raise GraphError(f"{_shown(file)}:1:1: {error}; write '# @package name'") from error
            values = self.documents[config_path].values
            return ConfigResult(
                config=OmegaConf.create({k: v for k, v in values.items() if k == "defaults"}),
                path=f"file://{source.path}",
                provider=source.provider,
                header=header,
            )

        return load_config

    def _file(self, config_path: str) -> pathlib.Path:
        return self.path.parent / (config_path if config_path.endswith(".yaml") else f"{config_path}.yaml")

    def _check_defaults(self, document: Document) -> None:
        """Refuse defaults on which Hydra's assertions fail, and a search path, which can import packages."""
        settings = document.values.get("hydra")
        if isinstance(settings, dict) and "searchpath" in settings:
            where = document.key_at(("hydra", "searchpath"))
            raise GraphError(f"{where}: hydra.searchpath is not followed; put groups beside the graph file")
        entries = document.values.get("defaults", [])
        if not isinstance(entries, list):
            where = document.value_at(("defaults",))
            raise GraphError(f"{where}: defaults is {kind(entries)}; write a list such as [policy: tiny, _self_]")
        for i, entry in enumerate(entries):
            if not _is_default(entry):
                where = document.value_at(("defaults", i))
                raise GraphError(f"{where}: {entry!r} is no default; write a file name or 'group: option'")

    def _check_choices(self, overrides: Sequence[Any]) -> None:
        for override in overrides:
            value = override.value()
            if self._is_choice(override) and not override.is_delete() and not isinstance(value, (str, list, dict)):
                options = _options(self.path.parent / override.key_or_group)
                raise override_error(override, f"{value!r} is no option of this group; available: {options}")

    def _missing(self, name: str, message: str, overrides: Sequence[Any]) -> UserError:
        """Return the error for a missing file that a defaults list or an override names."""
        folder = self._file(name).parent
        near = difflib.get_close_matches(name.rsplit("/", 1)[-1], _names(folder), n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        fault = f"no file '{_shown(self._file(name))}'{hint}; available in {_shown(folder)}: {_options(folder)}"
        if not folder.is_dir():
            groups = sorted(child.name for child in self.path.parent.iterdir() if child.is_dir())
            fault = f"no group folder '{_shown(folder)}'; available: {', '.join(groups) or 'none'}"
        for override in overrides:
            options = override.value() if isinstance(override.value(), list) else [override.value()]
            if name in [f"{override.key_or_group}/{option}" for option in options]:
                return GraphError(f"{override_position(override)}: {fault}")
        return GraphError(f"{self._defaults_entry(name, message)}: {fault}")

    def _defaults_entry(self, name: str, message: str) -> Position:
        """Return the position of the defaults list entry that names the file `name`."""
        document = self._named_document(message)
        for i, entry in enumerate(document.values.get("defaults", [])):
            for group, options in entry.items() if isinstance(entry, dict) else [("", entry)]:
                for option in options if isinstance(options, list) else [options]:
                    prefix = group.split(" ")[-1].split("@")[0].lstrip("/")
                    entry_name = f"{prefix}/{str(option).split('@')[0]}".lstrip("/")
                    if f"/{name}".endswith(f"/{entry_name}"):
                        return document.value_at(("defaults", i, group) if group else ("defaults", i))
        return document.key_at(("defaults",))

    def _refused(self, message: str, overrides: Sequence[Any]) -> UserError:
        """Return the error for a composition that Hydra refuses; it points at an override if Hydra names its key."""
        fault = " ".join(message.split())
        for override in overrides:
            key = override.get_key_element().lstrip("+~")
            if re.search(rf"(?:'[+~]*|for ){re.escape(key)}\b", fault) and self._is_choice(override):
                return override_error(override, fault)
        where = self._named_document(message).key_at(("defaults",))
        return GraphError(f"{where}: {fault}; change the defaults list")

    def _is_choice(self, override: Any) -> bool:
        group = self.path.parent / str(override.key_or_group)
        return group.is_dir()

    def _named_document(self, message: str) -> Document:
        """Return the document that Hydra's message names, else the graph file."""
        named = re.match(r"In '?([^'\n]+?)'?:", message)
        name = named[1] if named and named[1] in self.documents else self.main
        return self.documents[name]


def _is_default(entry: object) -> bool:
    if isinstance(entry, dict):
        keyed = len(entry) == 1 and all(isinstance(group, str) and group.strip() for group in entry)
        options = [option for value in entry.values() for option in (value if isinstance(value, list) else [value])]
        return keyed and all(option is None or isinstance(option, str) for option in options)
    return isinstance(entry, str) and bool(entry)


def _names(folder: pathlib.Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.yaml"))


def _options(folder: pathlib.Path) -> str:
    return ", ".join(_names(folder)) or "none"


def _shown(path: pathlib.Path) -> str:
    """Return a path for messages: relative if it is below the working directory."""
    here = pathlib.Path.cwd()
    return str(path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path)


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        near = difflib.get_close_matches(path.name, [file.name for file in path.parent.glob("*.y*ml")], n=1)
        hint = f" (did you mean '{_shown(path.parent / near[0])}'?)" if near else "; name a YAML file"
        raise GraphError(f"{_shown(path)}:1:1: no such file{hint}") from error
    except OSError as error:
        raise GraphError(f"{_shown(path)}:1:1: cannot be read: {error.strerror}; name a YAML file") from error
    except UnicodeDecodeError as error:
        fault = f"not UTF-8 text (byte 0x{error.object[error.start]:02x} at offset {error.start})"
        raise GraphError(f"{_shown(path)}:1:1: {fault}; save it as UTF-8") from error


@contextmanager
def _hydra_state() -> Iterator[None]:
    """Give the block a clean Hydra with the newest behaviour, and restore the caller's Hydra afterwards."""
    from hydra import version
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.utils import JobRuntime

    outer, job, base = GlobalHydra.instance(), JobRuntime.instance(), version.VersionBase.instance()
    before = outer.hydra, job.conf.copy(), base.version_base
    outer.clear()
    version.setbase(None)
    try:
        yield
    finally:
        GlobalHydra.set_instance(outer)
        outer.hydra, job.conf, base.version_base = before
