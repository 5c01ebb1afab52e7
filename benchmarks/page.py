"""Claim: on the page of `make play`, a picture follows a slider within 100 ms.

Debian's chromium shows the page of an untrained network for CIFAR-10, and a slider is moved step by step. The page
itself measures the time from a step to the frame that shows the answer (``performance.measure``). Server and browser
share the cores of this machine.

    python -m benchmarks.page --slides 200
"""

import argparse
import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measure import report
from benchmarks.serving import serve
from benchmarks.untrained_models import NAME, SHAPE, registry
from pipelines.runtime.errors import UserError, run_main

ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1240,1000")
TIMES = "return performance.getEntriesByName('slider to picture').map((entry) => entry.duration)"
SLIDE = "const s = document.getElementById('rotation'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))"


def open_browser() -> Any:
    """Start Debian's chromium without a window.

    Raises:
        UserError: it is not installed.
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        raise UserError("chromium: none here; Debian's packages chromium and chromium-driver have it")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ARGUMENTS:
        options.add_argument(argument)
    return webdriver.Chrome(options=options, service=Service(driver))


def measure_slides(browser: Any, slides: int) -> list[float]:
    """Move the slider of the rotation ``slides`` times, and return the milliseconds to each picture."""
    while not browser.execute_script(TIMES):
        time.sleep(0.1)
    browser.execute_script("performance.clearMeasures()")
    for angle in np.linspace(-90, 90, slides):
        before = len(browser.execute_script(TIMES))
        browser.execute_script(SLIDE, float(angle))
        end = time.monotonic() + 10
        while len(browser.execute_script(TIMES)) == before and time.monotonic() < end:
            time.sleep(0.01)
    return browser.execute_script(TIMES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=200)
    given = parser.parse_args()
    with registry(1), serve(NAME, "1") as port, TemporaryDirectory() as folder:
        image = Path(folder) / "image.png"
        channels, *size = SHAPE
        Image.fromarray(np.random.default_rng(0).integers(256, size=(*size, channels), dtype=np.uint8)).save(image)
        browser = open_browser()
        try:
            browser.get(f"http://127.0.0.1:{port}/")
            browser.find_element("id", "file").send_keys(str(image))
            times = measure_slides(browser, given.slides)
        finally:
            browser.quit()
    print(f"{len(times)} pictures of {given.slides} slides; 99th percentile {np.quantile(times, 0.99):.1f} ms")
    report("page", {"slider to picture, median, ms": [float(np.median(times))], "slider to picture, ms": times})


if __name__ == "__main__":
    run_main(main)
