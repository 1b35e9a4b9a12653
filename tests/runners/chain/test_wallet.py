"""Wallets open from a keystore or one variable; no error and no text form shows a key or a password."""

import copy
import io
import json
import sys
from pathlib import Path

import pytest
from chains import key
from eth_account import Account

from genrl_graph.errors import ParamError
from genrl_graph.runners.chain.wallet import KEY, PASSWORD, Wallet

SECRET, WORD = key(9), "correct horse"


@pytest.fixture
def keystore(tmp_path: Path) -> str:
    """A keystore file."""
    path = tmp_path / "wallet.json"
    path.write_text(json.dumps(Account.encrypt(SECRET, WORD, kdf="pbkdf2", iterations=10)))
    return str(path)


def test_a_keystore_opens_with_its_password(keystore: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD, WORD)
    wallet = Wallet.open(keystore)
    assert wallet.address == Account.from_key(SECRET).address
    assert repr(wallet) == f"Wallet({wallet.address})"
    with pytest.raises(TypeError, match="is not copied"):
        copy.deepcopy(wallet)


def test_what_does_not_open_is_one_line_without_secrets(
    keystore: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text").write_text(SECRET)
    (tmp_path / "other.json").write_text(json.dumps({"version": 3, "key": SECRET}))
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    lines = []

    def refused(keystore: str | None) -> str:
        with pytest.raises(ParamError) as error:
            Wallet.open(keystore)
        lines.append(str(error.value))
        assert error.value.__cause__ is None or isinstance(error.value.__cause__, OSError)
        return lines[-1]

    monkeypatch.delenv(KEY, raising=False)
    assert refused(None).startswith("coordinator: no wallet; set GENRL_GRAPH_CHAIN_KEY")
    assert "no password; set GENRL_GRAPH_CHAIN_PASSWORD" in refused(keystore)
    monkeypatch.setenv(PASSWORD, "wrong horse")
    assert "wrong password" in refused(keystore)
    assert "cannot be read: No such file" in refused(str(tmp_path / "none"))
    assert "is no keystore" in refused(str(tmp_path / "other.json"))
    assert "keystore" in refused(str(tmp_path / "text"))
    monkeypatch.setenv(KEY, SECRET[:-1])
    assert refused(None) == f"{KEY}: is no private key, 64 hexadecimal digits"
    monkeypatch.setenv(KEY, "0" * 64)
    assert refused(None) == f"{KEY}: is no private key, 64 hexadecimal digits"
    for line in lines:
        assert "\n" not in line
        assert not any(secret in line for secret in (SECRET[:-1], WORD, "wrong horse"))
