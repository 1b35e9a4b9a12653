"""The HTML page in a real browser."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import requested
from dense import dense_yaml
from hostile_game import HOSTILE, hostile_game

from genrl_graph import load
from genrl_graph.dag.schedule import Schedule, compile_graph
from genrl_graph.drawing.measured import Numbers, RunNumbers
from genrl_graph.drawing.render import draw
from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.read import read_document

if TYPE_CHECKING:
    from selenium.webdriver.chromium.webdriver import ChromiumDriver
    from selenium.webdriver.remote.webelement import WebElement

QUICKSTART = Path(__file__).parents[3] / "graphs" / "quickstart.yaml"


def show(browser: "ChromiumDriver", folder: Path, schedule: Schedule, run: RunNumbers | None = None) -> None:
    page = folder / "game.html"
    page.write_bytes(draw(schedule, "html", run=run))
    browser.get_log("performance")
    browser.get(page.as_uri())


def box(browser: "ChromiumDriver", name: str) -> "WebElement":
    return browser.find_element("css selector", f'#picture .box[data-name="{name}"] .name')


def panel(browser: "ChromiumDriver") -> str:
    text: str = browser.find_element("id", "panel").text
    return text


def view(browser: "ChromiumDriver") -> list[float]:
    shown: str = browser.execute_script("return document.getElementById('picture').getAttribute('viewBox')")
    return [float(number) for number in shown.split()]


def test_the_page_asks_for_nothing_and_complains_of_nothing(browser: "ChromiumDriver", tmp_path: Path) -> None:
    show(browser, tmp_path, compile_graph(load(QUICKSTART)))
    box(browser, "critique").click()
    assert browser.get_log("browser") == []
    assert [url for url in requested(browser) if not url.startswith("data:")] == [(tmp_path / "game.html").as_uri()]


def test_a_click_on_a_node_tells_about_it_and_links_lead_on(browser: "ChromiumDriver", tmp_path: Path) -> None:
    numbers = RunNumbers("runs/x: round 3, 2 peers", {"critique": Numbers(tokens=512.0, rows=16.0, reward=0.25)})
    show(browser, tmp_path, compile_graph(load(QUICKSTART)), numbers)
    assert not browser.find_element("id", "panel").is_displayed()
    box(browser, "critique").click()
    shown = panel(browser)
    for text in ("generate.critique · stage 1 · step 5", "Names the best of the answers", "512 tokens", "reward 0.250"):
        assert text in shown
    assert "answers ← answers PeerRollouts" in shown
    assert "Rollouts → score_critique.rollouts" in shown
    assert "Which student is right?" in shown
    browser.find_element("link text", "answers").click()
    assert panel(browser).startswith("×\nanswers\nexchange.gather · stage 0 · opens at step 3, closes at 4")
    browser.find_element("id", "close").click()
    assert not browser.find_element("id", "panel").is_displayed()


def test_wheel_buttons_keys_and_drag_move_the_view_and_fit_brings_it_back(
    browser: "ChromiumDriver", tmp_path: Path
) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    show(browser, tmp_path, compile_graph(load(QUICKSTART)))
    picture, whole = browser.find_element("id", "picture"), view(browser)
    ActionChains(browser).scroll_from_origin(ScrollOrigin.from_element(picture), 0, -300).perform()
    after_wheel = view(browser)
    assert after_wheel[2] < whole[2]
    browser.find_element("id", "in").click()
    after_button = view(browser)
    assert after_button[2] == pytest.approx(after_wheel[2] / 1.3)
    ActionChains(browser).drag_and_drop_by_offset(picture, 80, 40).perform()
    dragged = view(browser)
    assert dragged[0] < after_button[0] and dragged[1] < after_button[1] and dragged[2:] == after_button[2:]
    assert not browser.find_element("id", "panel").is_displayed(), "a drag is no click"
    browser.find_element("tag name", "body").send_keys("-")
    assert view(browser)[2] == pytest.approx(after_wheel[2])
    browser.find_element("id", "fit").click()
    assert view(browser) == whole


def test_the_search_finds_names_and_types(browser: "ChromiumDriver", tmp_path: Path) -> None:
    show(browser, tmp_path, compile_graph(load(QUICKSTART)))
    search = browser.find_element("id", "search")
    search.send_keys("exchange")
    assert browser.find_element("id", "found").text == "2 found"
    search.send_keys("\n")
    assert "\nanswers\n" in panel(browser)
    search.send_keys("\n")
    assert "\ncritiques\n" in panel(browser)


def test_two_hundred_nodes_can_be_used_at_once(browser: "ChromiumDriver", tmp_path: Path) -> None:
    document = parse_document(dense_yaml(200), file="dense.yaml")
    schedule = compile_graph(read_document(document).graph)
    browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})  # processor time: others cost nothing
    show(browser, tmp_path, schedule)
    browser.find_element("id", "search").send_keys("sum3\n")
    assert "\nsum3\n" in panel(browser)
    measured = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    (seconds,) = (metric["value"] for metric in measured if metric["name"] == "TaskDuration")
    print(f"200 nodes: opened, searched and shown in {seconds:.2f} s of the processor")
    assert 0 < seconds < 2


def test_text_of_a_game_is_no_markup_in_the_page(browser: "ChromiumDriver", tmp_path: Path) -> None:
    show(browser, tmp_path, compile_graph(hostile_game()))
    box(browser, "end").click()
    assert HOSTILE.partition("\n")[0] in panel(browser)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.scripts.length") == 2


def test_the_page_follows_the_dark_mode(browser: "ChromiumDriver", tmp_path: Path) -> None:
    show(browser, tmp_path, compile_graph(load(QUICKSTART)))
    colours = {}
    for mode in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": mode}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        script = "return [getComputedStyle(document.body).backgroundColor, getComputedStyle(arguments[0]).fill]"
        colours[mode] = browser.execute_script(script, box(browser, "answer"))
    assert colours == {
        "light": ["rgb(255, 255, 255)", "rgb(27, 31, 36)"],
        "dark": ["rgb(13, 17, 23)", "rgb(230, 237, 243)"],
    }
