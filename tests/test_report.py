"""The report in a real browser: on phone and desktop widths, in light and dark mode, with and without motion.

Requires Debian's chromium (packages chromium and chromium-driver).
"""

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

pytestmark = pytest.mark.slow
WIDTHS = {"desktop": 1280, "phone": 390}
# Returns [contrast, text] of each text node: contrast of its color to its background (WCAG 2.2, 1.4.3).
CONTRASTS = """
const channels = color => color.match(/[\\d.]+/g).map(Number);
const luminance = color => channels(color).slice(0, 3)
    .map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const backgroundOf = element => {
    for (let e = element; e; e = e.parentElement) {
        const color = getComputedStyle(e).backgroundColor, alpha = channels(color)[3] ?? 1;
        if (alpha === 1) return color;
        if (alpha > 0) throw `translucent background: ${color}`;
    }
    throw "no background";
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
    if (!text) continue;
    for (let e = element; e; e = e.parentElement) if (getComputedStyle(e).opacity != 1) throw `translucent: ${text}`;
    const [a, b] = [getComputedStyle(element).color, backgroundOf(element)].map(luminance).sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), text.slice(0, 40)]);
}
return found;
"""


def emulate(browser, width: int, scheme: str = "light", motion: str = "no-preference") -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": motion}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


@pytest.fixture
def report(demo, browser):
    browser.get((demo.folder / "state/reports/digits/report.html").as_uri())
    # The report has several MB, and a busy machine is still parsing them when get() returns.
    WebDriverWait(browser, 60).until(lambda it: it.execute_script("return document.readyState") == "complete")
    return browser


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_the_page_never_scrolls_sideways(report, width):
    emulate(report, width)
    measured = "const e = document.scrollingElement; return [e.scrollWidth, e.clientWidth]"
    content, visible = report.execute_script(measured)
    assert content == visible <= width  # less than width beside a vertical scroll bar
    # Nothing is cut off: elements wider than the page are inside a box that scrolls.
    overflowing = """
        return [...document.body.querySelectorAll('*')]
            .filter(e => !e.closest('.scroll') && e.getBoundingClientRect().right > innerWidth + 0.5)
            .map(e => e.outerHTML.slice(0, 80))"""
    assert report.execute_script(overflowing) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast_to_its_background(report, scheme):
    emulate(report, 1280, scheme)
    contrasts = report.execute_script(CONTRASTS)
    assert len(contrasts) > 50
    assert [found for found in contrasts if found[0] < 4.5] == []
    body = "return getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)"
    assert (sum(report.execute_script(body)) < 3 * 64) == (scheme == "dark")


def test_every_picture_is_rendered_and_has_an_alternative_text(report):
    pictures = report.find_elements(By.TAG_NAME, "img")
    assert len(pictures) >= 18
    for picture in pictures:
        assert len(picture.get_attribute("alt")) > 10
        assert report.execute_script("return arguments[0].complete && arguments[0].naturalWidth > 300", picture)
    assert report.find_element(By.TAG_NAME, "html").get_attribute("lang") == "en"


def test_the_animation_can_be_stopped_and_respects_reduced_motion(report):
    def shown(kind: str) -> list[bool]:
        return [picture.is_displayed() for picture in report.find_elements(By.CLASS_NAME, kind)]

    emulate(report, 1280)
    assert (shown("moving"), shown("still")) == ([True, True], [False, False])  # of the variants stn and tuned
    report.find_element(By.CSS_SELECTOR, ".hold input").click()
    assert (shown("moving"), shown("still")) == ([False, True], [True, False])
    emulate(report, 1280, motion="reduce")
    assert (shown("moving"), shown("still")) == ([False, False], [True, True])
