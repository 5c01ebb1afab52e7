"""The page in Debian's chromium: sliders, files, errors, and answers that arrive late."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.slow

NAME = "stn-mine"
PICTURE = "return document.getElementById('moved').src"


class Page:
    """The page of a server in a browser."""

    def __init__(self, browser, address: tuple[str, int]):
        self.browser = browser
        browser.get("http://{}:{}/".format(*address))

    def find(self, name: str) -> Any:
        return self.browser.find_element(By.ID, name)

    def text(self, name: str) -> str:
        return self.find(name).text

    def run(self, script: str, *arguments) -> Any:
        return self.browser.execute_script(script, *arguments)

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait until a condition holds."""
        end = time.monotonic() + 15
        while not (found := condition()):
            assert time.monotonic() < end, f"{what}; the page says: {self.text('error')!r}"
            time.sleep(0.02)
        return found

    def slide(self, name: str, value: float) -> None:
        """Move a slider as a hand does: through a position between."""
        for position in (value / 2, value):
            self.run(
                "const s = document.getElementById(arguments[0]); s.value = arguments[1];"
                "s.dispatchEvent(new Event('input'))", name, position,
            )  # fmt: skip

    def is_ready(self) -> bool:
        return self.run(PICTURE).startswith("data:image/png")


@pytest.fixture
def open_page(browser, serve, store, monkeypatch) -> Callable[..., Page]:
    """Opens the page of a new server; ``page.server`` is the server."""
    monkeypatch.chdir(store.folder)  # with the test images
    browser.set_window_size(1240, 1000)

    def open_it(**options) -> Page:
        server = serve(**options)
        page = Page(browser, server.address)
        page.server = server  # pyright: ignore[reportAttributeAccessIssue]
        return page

    return open_it


def test_a_slider_moves_the_picture_and_everything_beside_it(open_page):
    page = open_page()
    page.until(page.is_ready, "no picture")
    assert page.text("title") == NAME and "version 1 (stn), on c" in page.text("about")
    before = page.run(PICTURE)
    page.slide("rotation", 40)
    page.until(lambda: page.run(PICTURE) != before, "the picture did not move")
    assert page.find("rectified").get_attribute("src").startswith("data:image/png")
    assert len(page.find("bars").find_elements(By.TAG_NAME, "i")) == 4 and "70.0 %" in page.text("bars")
    assert page.text("class") == "cat"
    assert page.text("matrix").split() == ["0.000", "1.000", "0.000", "−1.000", "0.000", "0.000"]
    assert "−90.0°" in page.text("summary")
    lines = page.run("return document.getElementById('grid').getAttribute('d')")
    assert lines.count("M") == 18
    page.until(lambda: page.run("return document.querySelectorAll('#chart polyline').length") == 2, "no path")
    assert page.text("path-title") == "Path of θ over the slider: rotation"
    severe = [entry for entry in page.browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert severe == [], "a script failed, or the policy of the page refused something"


def test_the_keyboard_moves_sliders_and_chooses_images(open_page):
    page = open_page()
    page.until(page.is_ready, "no picture")
    before = page.run(PICTURE)
    page.find("shift_x").send_keys(Keys.ARROW_RIGHT * 12)
    page.until(lambda: page.run(PICTURE) != before, "the picture did not move")
    assert page.run("return document.querySelector('[for=shift_x] ~ output').textContent") == "0.12 of the width"
    assert page.text("path-title").endswith("shift to the right")
    page.find("reset").send_keys(Keys.ENTER)
    page.until(lambda: page.run(PICTURE) == before, "the image did not move back")
    page.browser.find_element(By.CSS_SELECTOR, "#examples input").send_keys(Keys.ARROW_RIGHT)
    page.until(lambda: page.text("class") == "dog", "the next image was not chosen")


def test_a_file_of_ones_own_and_one_that_is_no_image(open_page, tmp_path):
    page = open_page()
    page.until(page.is_ready, "no picture")
    pixels = np.full((30, 40), 3, dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "own.png")
    page.find("file").send_keys(str(tmp_path / "own.png"))
    page.until(lambda: page.text("class") == "fox", "the file was not classified")  # index 3
    assert not page.find("error").is_displayed()
    before = page.run(PICTURE)
    page.slide("noise", 0.3)  # the page now sends the decoded image
    page.until(lambda: page.run(PICTURE) != before, "the file did not move")

    (tmp_path / "bad.png").write_bytes(b"no image")
    page.find("file").send_keys(str(tmp_path / "bad.png"))
    page.until(lambda: page.find("error").is_displayed(), "no error")
    assert page.text("error") == "the image: not a readable image (its content is no image)"
    page.find("file").send_keys(str(tmp_path / "own.png"))
    page.until(lambda: not page.find("error").is_displayed(), "the error stays")


def test_a_server_that_is_gone_is_said(open_page):
    page = open_page()
    page.until(page.is_ready, "no picture")
    page.server.stop()
    page.slide("scale", 0.5)
    page.until(lambda: page.find("error").is_displayed(), "no error")
    assert page.text("error").startswith("The server does not answer")


def test_slow_answers_never_overtake_newer_ones(open_page, monkeypatch):
    """The first of two answers arrives a second after the second one."""
    page = open_page()
    page.until(page.is_ready, "no picture")
    queue = page.server.deployment.default.queue
    predict, asked = queue.predict, []

    async def predict_late(pixels: np.ndarray):
        is_first = len(pixels) == 1 and not asked  # a path has more images
        asked.extend([True] * (len(pixels) == 1))
        outputs = await predict(pixels)
        if is_first:
            await asyncio.sleep(1)
            late.append(True)
        return outputs

    late: list[bool] = []
    time.sleep(0.3)  # the path
    monkeypatch.setattr(queue, "predict", predict_late)
    before = page.run(PICTURE)  # read first: the second answer may be there when `slide` returns
    page.slide("shift_y", 0.3)  # two positions: the first one is slow
    newer = page.until(lambda: (picture := page.run(PICTURE)) != before and picture, "no answer")
    page.until(lambda: late, "the slow answer was not asked for")
    time.sleep(0.3)
    assert page.run(PICTURE) == newer
    assert page.run("return document.querySelector('[for=shift_y] ~ output').textContent") == "0.3 of the height"


def test_the_switch_shows_the_other_version(open_page, store):
    store.client.set_registered_model_alias(NAME, "challenger", "4")
    page = open_page()
    page.until(page.is_ready, "no picture")
    radio = page.browser.find_element(By.CSS_SELECTOR, "#versions input[value=challenger]")
    radio.click()
    page.until(lambda: "version 4 " in page.text("about"), "the challenger did not answer")
    page.until(lambda: page.run("return document.querySelectorAll('#chart .other').length") == 1, "no other path")


def test_a_token_is_asked_for(open_page):
    token = "a-secret-of-some-length"
    page = open_page(token=token)
    page.until(lambda: page.find("token").is_displayed(), "no form for the token")
    field = page.browser.find_element(By.NAME, "token")
    field.send_keys(token + Keys.ENTER)
    page.until(page.is_ready, "no picture")
    assert not page.find("token").is_displayed()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_pictures_and_sliders_without_scrolling_sideways(open_page, scheme):
    page = open_page()
    page.browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    )
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    page.until(page.is_ready, "no picture")
    assert page.run("return document.documentElement.scrollWidth <= innerWidth")
    assert page.run("return document.getElementById('rotation').getBoundingClientRect().bottom < innerHeight")
    back, text = page.run(
        "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color].map("
        "c => c.match(/\\d+/g).map(Number).reduce((a, b) => a + b) / 765)"
    )
    assert abs(back - text) > 0.7 and (back > 0.5) == (scheme == "light")
