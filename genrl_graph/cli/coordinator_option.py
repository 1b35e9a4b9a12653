"""The option `--coordinator`: a file that says where the contract is, or `embedded`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrl_graph.errors import ParamError

if TYPE_CHECKING:
    from genrl_graph.dag.coordinator_config import CoordinatorConfig

MAX_FILE_BYTES = 1 << 16


def add_coordinator_argument(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """Add `--coordinator`."""
    what = "YAML file that says where the contract is, as `chain deploy` writes it"
    here = "" if required else "; or `embedded`: a chain that ends with the run"
    parser.add_argument("--coordinator", metavar="FILE", required=required, help=what + here)


def coordinator_of(args: argparse.Namespace) -> "CoordinatorConfig | None":
    """Return the coordinator of `--coordinator`, None without it; raise `ParamError` where the file is no such one."""
    from pydantic import ValidationError

    from genrl_graph.dag.coordinator_config import EMBEDDED, CoordinatorConfig

    if args.coordinator is None:
        return None
    path = Path(args.coordinator)
    values = {"endpoint": EMBEDDED} if args.coordinator == EMBEDDED else _read(path)
    try:
        config = CoordinatorConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        at = ".".join(map(str, first["loc"])) or "file"
        raise ParamError(f"--coordinator {path}: {at}: {first['msg'].removeprefix('Value error, ')}") from None
    files = {name: file for name in ("abi", "keystore") if (file := getattr(config, name)) is not None}
    beside = {name: str(path.absolute().parent / Path(file).expanduser()) for name, file in files.items()}
    return config.model_copy(update=beside)


def _read(path: Path) -> Any:
    import yaml

    try:
        text = path.read_bytes()[: MAX_FILE_BYTES + 1].decode()
        values = yaml.safe_load(text)
    except OSError as error:
        raise ParamError(f"--coordinator {path}: cannot be read: {error.strerror}; name a file, or embedded") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParamError(f"--coordinator {path}: is no YAML") from error
    if not isinstance(values, dict):
        raise ParamError(f"--coordinator {path}: is no mapping with `endpoint`, `contract` and `chain_id`")
    return values
