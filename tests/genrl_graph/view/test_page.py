"""The live page in a real browser: click paths, news of a run, hostile text, the exported page."""

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from browser import requested
from clicks import click, is_shown, one, opened, text, until
from toys import toy_game
from viewed import HOSTILE, serving

from genrl_graph import play
from genrl_graph.cli import run_command

if TYPE_CHECKING:
    from selenium.webdriver.chromium.webdriver import ChromiumDriver


def test_clicks_lead_from_the_picture_to_a_rollout_to_what_it_quotes(browser: "ChromiumDriver", address: str) -> None:
    opened(browser, address)
    assert text(browser, "#status").startswith("finished, 3 of 3 rounds")
    until(lambda: len(browser.find_elements("css selector", ".picture .is-done")) == 11)
    click(browser, '.picture .box[data-name="final"]')
    assert "generate.toy_draw" in text(browser, "#node") and "rows 12" in text(browser, "#node")
    browser.find_element("xpath", "//aside[@id='node']//button[text()='its rollouts']").click()
    click(browser, "#rollouts .card")
    until(lambda: "trained on" in text(browser, "#detail"))
    quoted = text(browser, "#detail .relatives")
    assert quoted.startswith(("answer, round 2", "answers, round 2"))
    first = text(browser, "#detail h2")
    click(browser, "#detail .relatives button")
    until(lambda: "quoted by" in text(browser, "#detail") and text(browser, "#detail h2") != first)
    assert "it begins with the task" in text(browser, "#detail")
    assert browser.get_log("browser") == []
    hosts = {urlsplit(url).netloc for url in requested(browser) if not url.startswith(("data:", "about:"))}
    assert hosts == {urlsplit(address).netloc}


def test_filters_and_tabs_are_used_by_keyboard(browser: "ChromiumDriver", address: str) -> None:
    from selenium.webdriver import ActionChains, Keys

    opened(browser, address)
    ActionChains(browser).send_keys("/").perform()
    until(lambda: browser.switch_to.active_element.get_attribute("id") == "f-task")
    until(lambda: browser.find_elements("css selector", "#rollouts .card"))
    ActionChains(browser).send_keys("no such task").perform()
    until(lambda: text(browser, "#rollouts [role=status]").startswith("0 shown"))
    browser.find_element("id", "tab-rollouts").send_keys(Keys.ARROW_RIGHT)
    until(lambda: "peer0001" in text(browser, "#peers"))
    assert browser.switch_to.active_element.get_attribute("id") == "tab-peers"
    ActionChains(browser).send_keys("2").perform()
    until(lambda: len(browser.find_elements("css selector", "#curves canvas")) >= 2)
    browser.find_element("id", "metric").send_keys("credit_final/groups")
    until(lambda: "metrics (" in text(browser, "#metrics legend"))


def test_the_page_shows_a_step_of_a_run_that_goes_on(browser: "ChromiumDriver", tmp_path: Path) -> None:
    play(toy_game(), out=tmp_path / "run", rounds=2, quiet=True)
    with serving(tmp_path / "run") as address:
        opened(browser, address)
        assert "2 of 2 rounds" in text(browser, "#status")
        play(toy_game(), out=tmp_path / "run", rounds=5, quiet=True, resume=True)
        ended = time.monotonic()
        until(lambda: "5 of 5 rounds" in text(browser, "#status"))
        waited = time.monotonic() - ended
        print(f"the page showed the last round {waited:.2f} s after it")
        curve = 'figure [role="img"][aria-label^="stage1/reward"]'
        until(lambda: "in round 4" in (one(browser, curve).get_attribute("aria-label") or ""))
        assert browser.get_log("browser") == []


def test_hostile_text_runs_nothing(browser: "ChromiumDriver", address: str) -> None:
    opened(browser, address)
    browser.execute_script(
        "const run = document.getElementById('run'); run.value = 1; run.dispatchEvent(new Event('change'))"
    )
    until(lambda: text(browser, "#title").startswith("hostile"))
    click(browser, "#tab-rollouts")
    click(browser, "#rollouts .card")
    until(lambda: "trained on" in text(browser, "#detail"))
    assert "window.owned=1" in text(browser, "#detail")
    for tab in ("curves", "peers", "log", "now"):
        click(browser, f"#tab-{tab}")
        until(partial(is_shown, browser, f"#{tab}", "window.owned=1"))
    owned, scripts, images = browser.execute_script(
        "return [typeof window.owned, document.scripts.length, document.images.length]"
    )
    assert (owned, scripts, images) == ("undefined", 2, 0)
    assert browser.get_log("browser") == []


def test_an_exported_page_needs_no_server(
    browser: "ChromiumDriver", runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert run_command(["view", str(runs / "toy"), str(runs / "hostile"), "--export", str(page)]) == 0
    assert capsys.readouterr().out == f"{page}\n"
    opened(browser, page.as_uri())
    assert text(browser, "#status") == "exported: finished, 3 of 3 rounds"
    until(lambda: browser.find_elements("css selector", "#now canvas"))
    click(browser, "#tab-rollouts")
    click(browser, "#rollouts .card")
    until(lambda: "trained on" in text(browser, "#detail"))
    assert browser.get_log("browser") == []
    assert [url for url in requested(browser) if url.startswith("http")] == []
    assert HOSTILE not in page.read_text()


@pytest.mark.long
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_axe_has_no_serious_findings(browser: "ChromiumDriver", address: str, mode: str) -> None:
    axe = pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
    script = (Path(axe.__file__).parent / "axe.min.js").read_text()
    feature = {"name": "prefers-color-scheme", "value": mode}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    opened(browser, address)
    browser.execute_cdp_cmd("Runtime.evaluate", {"expression": script})  # the page's policy keeps other scripts out
    findings = []
    for tab, ready in AXE_TABS.items():
        click(browser, f"#tab-{tab}")
        one(browser, ready)
        if tab == "now":
            click(browser, '.picture .box[data-name="final"]')
        if tab == "rollouts":
            click(browser, ready)
            until(lambda: "trained on" in text(browser, "#detail"))
        found = browser.execute_async_script("axe.run().then(arguments[0])")["violations"]
        findings += [
            f"{tab}: {one['id']}: {one['nodes'][0]['html'][:200]}: {one['nodes'][0]['failureSummary'][:300]}"
            for one in found
            if one["impact"] in ("serious", "critical")
        ]
    assert findings == []


AXE_TABS = {
    "now": "#nodes table",
    "curves": "#curves canvas",
    "rollouts": "#rollouts .card",
    "peers": "#peers table",
    "plan": "#plan button",
    "log": "#log p",
}
"""Each tab, and what is on it once it is shown."""
