"""The page in a browser: generate, change the label, complete a picture; nothing is loaded from elsewhere."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.slow
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
pytest.importorskip("gradio", reason="gradio is not installed: pip install 'spiking_vq[app]'")
pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'spiking_vq[app]'")

CHROMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 180
"""Seconds to wait for the page at most."""


@pytest.fixture
def served(tmp_path):
    """Address of the page with MNIST's model, in a process that ends by Ctrl-C and leaves nothing behind."""
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")  # nobody is there
    environment = {**os.environ, **proxies, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", INTERRUPTIBLE, "app", "mnist", "port=0"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    line = process.stdout.readline()
    assert line.startswith("open http://127.0.0.1:"), process.communicate()
    yield line.split()[1]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "stopped\n")
    assert not list(tmp_path.glob("spiking_vq-app-*"))


INTERRUPTIBLE = """
import signal
from stages.__main__ import entry_point
signal.signal(signal.SIGINT, signal.default_int_handler)
entry_point()
"""
"""The command, with Ctrl-C even where the shell that started the tests ignores it for jobs in the background."""


@pytest.fixture
def browser(tmp_path):
    """Chromium without a window, which records its console and its requests."""
    program = next(filter(None, map(shutil.which, CHROMES)), None)
    driver = shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for word in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "hide-scrollbars"):
        options.add_argument(f"--{word}")
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


def all_of(browser, selector):
    return browser.find_elements("css selector", selector)


def eventually(condition, what):
    """Wait until a condition holds; elements may vanish meanwhile."""
    from selenium.common.exceptions import WebDriverException

    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if found := condition():
                return found
        except WebDriverException:
            pass
        time.sleep(0.2)
    raise AssertionError(f"there is no {what} after {PATIENCE} seconds")


def press(browser, selector):
    browser.execute_script("arguments[0].click()", eventually(lambda: all_of(browser, selector), selector)[0])


def generated(browser):
    """Generate, wait for images and spikes; the lines that said how far it was, and the picture."""
    press(browser, "#generate")
    said = []

    def is_done():
        said.append(all_of(browser, "#status")[0].text)
        return "Click one" in said[-1] and all_of(browser, "#spikes table")

    eventually(lambda: not all_of(browser, "#spikes table"), "new start")
    eventually(is_done, "table of energies")
    return list(dict.fromkeys(said)), all_of(browser, "#grid img")[0].get_attribute("src")


def command_line(browser):
    return all_of(browser, "#line textarea")[0].get_attribute("value")


def choose(browser, name, text):
    all_of(browser, f"#{name} input")[0].click()
    choice = f"//ul[@role='listbox']/li[normalize-space(translate(., '✓', ''))='{text}']"
    eventually(lambda: browser.find_elements("xpath", choice), f"choice {text}")[0].click()


def screenshot(browser, path, width):
    """Write the whole page at a width, and check that nothing is wider."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    time.sleep(0.5)
    page = "return document.documentElement"
    metrics["height"] = browser.execute_script(f"{page}.scrollHeight")
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    time.sleep(0.5)
    browser.save_screenshot(str(path))
    assert browser.execute_script(f"{page}.scrollWidth") <= width
    assert Image.open(path).width == width


def test_a_visit(served, browser, tmp_path):
    browser.set_window_size(1280, 900)
    browser.get(served)
    said, first = generated(browser)
    assert sum("Call" in line for line in said) >= 3  # the film, as it happens
    assert first.startswith("data:image/png;base64,")
    assert "label=" not in command_line(browser)
    assert [link.text for link in all_of(browser, "#downloads a")] == ["grid.png", "images.zip", "tokens.npy"]
    screenshots(browser, tmp_path, "generate")

    choose(browser, "label", "7")
    _, second = generated(browser)
    assert second != first
    assert command_line(browser).endswith("label=7")
    grid = all_of(browser, "#grid img")[0]
    webdriver.ActionChains(browser).move_to_element_with_offset(grid, 60, 60).click().perform()  # right of the middle
    eventually(lambda: "Image 10." in all_of(browser, "#spikes")[0].text, "image 10")

    press(browser, "button[role=tab]:nth-of-type(2)")
    eventually(lambda: len(all_of(browser, "#eraser i")) == 49, "picture to erase")
    assert erased(browser) == "0" * 28 + "1" * 21
    cells = all_of(browser, "#eraser i")
    drag = webdriver.ActionChains(browser).move_to_element(cells[0]).click_and_hold()
    drag.move_to_element(cells[1]).move_to_element(cells[8]).release().perform()
    assert erased(browser) == "1100000" + "01" + "0" * 19 + "1" * 21
    press(browser, "#complete")
    eventually(lambda: all_of(browser, "#completions img"), "completions")
    screenshots(browser, tmp_path, "complete")

    (bad := tmp_path / "bad.png").write_bytes(b"no picture")
    all_of(browser, "#upload input[type=file], input[type=file]")[0].send_keys(str(bad))
    eventually(lambda: any("no picture that" in told.text for told in all_of(browser, ".toast-body")), "message")
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []
    assert {url.split("/")[2] for url in requested(browser)} == {served.split("/")[2]}


def screenshots(browser, folder: Path, name):
    for width in (390, 1280):
        screenshot(browser, folder / f"{name}-{width}.png", width)


def erased(browser):
    """What is erased, a letter a position."""
    return "".join(cell.get_attribute("class").removeprefix("erased-") for cell in all_of(browser, "#eraser i"))


def requested(browser):
    """Addresses that the page asked for."""
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            if url.startswith(("http", "ws")):
                yield url
