import sys
from pathlib import Path

import pytest

from genrl_graph.errors import DataError
from genrl_graph.nodes.policy.causal_lm import CausalLM
from genrl_graph.nodes.policy.loading.gguf_model import cache_root, check_tokenizer
from genrl_graph.nodes.policy.loading.package_model import package_folder
from genrl_graph.nodes.policy.tiny_lm import PRINTABLE, character_tokenizer


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create an importable package without a model and an empty cache; return the package's folder."""
    folder = tmp_path / "tiny_gguf_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("GENRL_GRAPH_CACHE", str(tmp_path / "cache"))
    return folder


def test_a_package_that_is_not_installed_says_what_to_install() -> None:
    with pytest.raises(DataError, match=r"package:llm_nowhere: not installed; no package 'llm-nowhere' is known here"):
        CausalLM(model="package:llm_nowhere").init("policy", seed=0)


@pytest.mark.parametrize("name", ["os.path", "../x", "", "a b"])
def test_only_top_level_modules_are_looked_for(name: str) -> None:
    with pytest.raises(DataError, match="not the name of a top-level module"):
        package_folder(name)


def test_a_package_needs_exactly_one_gguf_file(package: Path) -> None:
    with pytest.raises(DataError, match="found none"):
        package_folder(package.name)
    for name in ("a.gguf", "b.gguf"):
        (package / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"found a\.gguf, b\.gguf"):
        package_folder(package.name)
    assert package.name not in sys.modules  # the package itself is never imported


def test_a_broken_file_is_one_line_and_leaves_nothing_behind(package: Path) -> None:
    (package / "model.gguf").write_bytes(b"GGUF nothing of the kind")
    with pytest.raises(DataError, match=r"cannot convert model\.gguf") as caught:
        package_folder(package.name)
    assert "\n" not in str(caught.value)
    assert not list((cache_root() / "models").iterdir())


def test_a_converted_model_is_found_again_without_converting(package: Path) -> None:
    pytest.importorskip("gguf")
    (package / "model.gguf").write_bytes(b"never read")
    folder = cache_root() / "models" / f"{package.name}-0-model-1"
    folder.mkdir(parents=True)
    assert package_folder(package.name) == folder


def test_a_tokenizer_that_loses_text_is_refused() -> None:
    tokenizer = character_tokenizer(PRINTABLE)
    tokenizer.chat_template = "{{ messages[0]['content'] }}<eos>"
    with pytest.raises(DataError, match=r"does not give .* back"):  # a character outside the alphabet
        check_tokenizer(tokenizer, tokenizer, where="package:x")
    whole = character_tokenizer(PRINTABLE + "ï漢字🙂")
    whole.chat_template = tokenizer.chat_template
    check_tokenizer(whole, whole, where="package:x")
    shorter = character_tokenizer(PRINTABLE[1:] + "ï漢字🙂")
    shorter.chat_template = tokenizer.chat_template
    with pytest.raises(DataError, match=r"reads .* differently"):
        check_tokenizer(shorter, whole, where="package:x")
