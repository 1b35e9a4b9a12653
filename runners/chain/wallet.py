"""The wallet that signs for a peer: a keystore file, or a raw key in one environment variable.

The key stays in the signer: no error, text form, log or file has it.
"""

import getpass
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eth_account import Account

from genrl_graph.errors import ParamError

KEY = "GENRL_GRAPH_CHAIN_KEY"
PASSWORD = "GENRL_GRAPH_CHAIN_PASSWORD"
MAX_KEYSTORE_BYTES = 1 << 16


class Wallet:
    """Signs transactions for one account; `address` is public."""

    __slots__ = ("_account", "address")

    def __init__(self, account: Any) -> None:
        self._account = account
        self.address = str(account.address)

    def __repr__(self) -> str:
        return f"Wallet({self.address})"

    def __reduce__(self) -> Any:
        raise TypeError("a wallet is not copied or stored")

    @classmethod
    def open(cls, keystore: str | None) -> "Wallet":
        """Open the keystore file, or without one the key in the environment.

        The password is asked for at a terminal, or read from the environment. Raises `ParamError` where there is no
        key, or the password is wrong.
        """
        if keystore is not None:
            return cls._from_keystore(Path(keystore).expanduser())
        if text := os.environ.get(KEY):
            return cls.from_key(text, where=KEY)
        raise ParamError(f"coordinator: no wallet; set {KEY}, or name a file with `keystore`, or a `proxy`")

    @classmethod
    def from_key(cls, text: str, *, where: str) -> "Wallet":
        """Return the wallet of a key of 64 hexadecimal digits."""
        try:
            raw = bytes.fromhex(text.strip().removeprefix("0x"))
            account = Account.from_key(raw) if len(raw) == 32 else None
        except Exception:  # whatever a library says of it may hold the key
            account = None
        if account is None:
            raise ParamError(f"{where}: is no private key, 64 hexadecimal digits")
        return cls(account)

    @classmethod
    def new(cls) -> "Wallet":
        """Make a wallet that is lost with the process."""
        return cls(Account.create())

    @classmethod
    def _from_keystore(cls, path: Path) -> "Wallet":
        try:
            text = path.read_bytes()[: MAX_KEYSTORE_BYTES + 1].decode()
            keystore = json.loads(text)
        except OSError as error:
            raise ParamError(f"keystore {path}: cannot be read: {error.strerror}") from error
        except ValueError:
            raise ParamError(f"keystore {path}: is no JSON of a keystore (version 3)") from None
        try:
            return cls(Account.from_key(Account.decrypt(keystore, _password(path))))
        except ParamError:
            raise
        except ValueError as error:
            wrong = "MAC mismatch" in str(error)
            what = "wrong password" if wrong else "is no keystore of version 3"
            raise ParamError(f"keystore {path}: {what}; set {PASSWORD}, or type it at the prompt") from None
        except Exception:
            raise ParamError(f"keystore {path}: is no keystore of version 3") from None

    def sign(self, transaction: Mapping[str, Any]) -> tuple[bytes, str]:
        """Return a signed transaction, as it is sent, and its hash."""
        signed = self._account.sign_transaction(dict(transaction))
        return bytes(signed.raw_transaction), "0x" + bytes(signed.hash).hex()


def _password(path: Path) -> str:
    if (password := os.environ.get(PASSWORD)) is not None:
        return password
    if not sys.stdin.isatty():
        raise ParamError(f"keystore {path}: no password; set {PASSWORD}, or start at a terminal")
    return getpass.getpass(f"Password of {path}: ")
