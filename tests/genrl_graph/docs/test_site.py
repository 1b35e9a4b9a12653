"""The documentation is built strictly, needs no network, and its reference has all that the code has."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
from code_blocks import PAGES, ROOT

import genrl_graph
from genrl_graph.docs.types import kinds, shipped_types
from genrl_graph.graph_file.shipped import shipped_graphs

CONFIG = PAGES.with_name("mkdocs.yml")
HOOKS = CONFIG.with_name("hooks.py")
LOADED = re.compile(r"<(?:script|img|link|iframe|source)\b[^>]*?\b(?:src|href)=[\"']?([^\"'\s>]+)")

pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")


def build(config: Path, site: Path) -> "subprocess.CompletedProcess[str]":
    """Build the documentation strictly, in a process that knows no types but the shipped ones."""
    command = ["-m", "mkdocs", "--quiet", "build", "--strict", "--config-file", str(config), "--site-dir", str(site)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built documentation; every link in it leads somewhere, or the build had failed."""
    site: Path = tmp_path_factory.mktemp("site")
    done = build(CONFIG, site)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return site


def pages(site: Path) -> Iterator[tuple[Path, str]]:
    for page in sorted(site.rglob("*.html")):
        yield page, page.read_text()


def test_nothing_is_loaded_from_a_network(site: Path) -> None:
    loaded = [(page, address) for page, html in pages(site) for address in LOADED.findall(html)]
    assert loaded
    for page, address in loaded:
        assert not re.match(r"(https?:)?//", address), f"{page}: {address}"
        if page.name != "404.html":  # which only a server shows
            assert (page.parent / unescape(address).partition("?")[0].partition("#")[0]).exists(), f"{page}: {address}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)[\s\"']*(https?:)?//", sheet.read_text()), sheet


def test_the_wheel_takes_all_of_it(site: Path) -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    files = [file for file in site.rglob("*") if file.is_file()]
    assert [file for file in files if not any(file.match(pattern) for pattern in patterns)] == []
    assert sum(file.stat().st_size for file in files) < 8e6


def test_search_knows_every_type_and_command(site: Path) -> None:
    entries = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    titles = {unescape(entry["title"]) for entry in entries}
    assert titles >= set(shipped_types())
    assert titles >= {"check", "plan", "run", "swarm bootstrap"}
    assert not [entry["location"] for entry in entries if "<svg" in entry["text"]]


def test_every_type_has_its_section_and_every_game_its_picture(site: Path) -> None:
    for name in shipped_types():
        html = (site / "reference" / "types" / f"{name.partition('.')[0]}.html").read_text()
        assert f'<h2 id="{name}">' in html
    for name in shipped_graphs():
        html = (site / "reference" / "games" / f"{name}.html").read_text()
        assert '<figure class="game" data-search-exclude tabindex="0">' in html
        assert 'class="box k-source"' in html


def test_every_public_name_is_documented(site: Path) -> None:
    html = (site / "reference" / "python.html").read_text()
    names = [*(name for name in genrl_graph.__all__ if not name.startswith("_")), "StoredRun"]
    assert [name for name in names if f'id="genrl_graph.{name}"' not in html] == []


def test_pages_are_in_the_order_in_which_their_index_links_them(tmp_path: Path) -> None:
    from mkdocs.config import load_config
    from mkdocs.structure.files import get_files

    pages = tmp_path / "pages"
    (pages / "concepts" / "deep").mkdir(parents=True)
    for name in ("index", "about", "concepts/a", "concepts/b", "concepts/c", "concepts/deep/d"):
        (pages / f"{name}.md").write_text(f"# {name}\n")
    (pages / "concepts" / "index.md").write_text("[c](c.md) [a](a.md#x) [start](../index.md) [gone](gone.md)\n")
    nav = "['index.md', {Ideas: concepts/}, {Types: reference/types/}, {More: ./}, {None: tutorial/}]"
    (tmp_path / "mkdocs.yml").write_text(f"site_name: x\ndocs_dir: pages\nhooks: [{HOOKS}]\nnav: {nav}\n")
    config = load_config(str(tmp_path / "mkdocs.yml"))
    config.plugins.on_files(get_files(config), config=config)
    assert config.nav is not None
    start, ideas, types, more = config.nav
    deep = {"deep": ["concepts/deep/d.md"]}
    assert start == "index.md"
    assert ideas == {"Ideas": [*(f"concepts/{name}.md" for name in ("index", "c", "a", "b")), deep]}
    assert types == {"Types": [f"reference/types/{kind}.md" for kind in kinds()]}
    assert more == {"More": ["about.md"]}


def test_a_picture_of_no_game_ends_the_build(tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "mkdocs.yml").write_text(f"INHERIT: {CONFIG}\ndocs_dir: pages\nhooks: [{HOOKS}]\n")
    page = tmp_path / "pages" / "index.md"
    page.write_text("```graph\ngraph: x\nversion: 1\nnodes: {a: {type: reward.maths}}\n```\n")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode != 0
    assert "index.md: a block `graph` cannot be drawn" in done.stderr
    assert "did you mean 'reward.math'" in done.stderr
