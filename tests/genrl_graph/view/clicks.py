"""Clicks on the live page, and waits for what it shows."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from browser import requested

if TYPE_CHECKING:
    from selenium.webdriver.chromium.webdriver import ChromiumDriver
    from selenium.webdriver.remote.webelement import WebElement

PATIENCE_S = 60.0


def until(what: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    """Wait until a condition holds; a busy machine is no failure."""
    end = time.monotonic() + patience_s
    while not what():
        assert time.monotonic() < end, "the page did not come to show it"
        time.sleep(0.05)


def one(browser: "ChromiumDriver", selector: str) -> "WebElement":
    """Return the first element that matches, once there is one."""
    until(lambda: browser.find_elements("css selector", selector))
    return browser.find_element("css selector", selector)


def text(browser: "ChromiumDriver", selector: str) -> str:
    """Return the text that an element shows, nothing where there is none."""
    shown: str = browser.execute_script("return document.querySelector(arguments[0])?.innerText ?? ''", selector)
    return shown


def is_shown(browser: "ChromiumDriver", selector: str, words: str) -> bool:
    """Return whether an element shows some words."""
    return words in text(browser, selector)


def click(browser: "ChromiumDriver", selector: str) -> None:
    """Click the first element that matches; it may be replaced by news of the run while it is looked for."""
    one(browser, selector)
    found = "document.querySelector(arguments[0])"
    browser.execute_script(f"{found}.dispatchEvent(new MouseEvent('click', {{bubbles: true}}))", selector)


def opened(browser: "ChromiumDriver", address: str) -> None:
    """Open a page, and wait until it shows a run."""
    browser.get("about:blank")  # a page of before may miss its server
    requested(browser)
    browser.get_log("browser")
    browser.get(address)
    until(lambda: "rounds" in text(browser, "#status"))
