"""The site in headless Chromium, from disk and without a network: `-m services`.

Needs Chromium and its driver (Debian: chromium, chromium-driver) and the extra `browser`.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.services

SIZE = (1280, 1400)
# Any name leads nowhere, and what asks for an address all the same meets a proxy that is not there.
NO_NETWORK = ("--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9")
KEY_SORT = "macro_sensitivity"


class Browser:
    """Chromium, and what it has been asked for since it was started."""

    def __init__(self, driver):
        self.driver = driver
        self.requested = []

    def open(self, file, state=""):
        self.driver.get(f"{Path(file).as_uri()}{state}")

    def find(self, selector):
        from selenium.webdriver.common.by import By

        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        from selenium.webdriver.common.by import By

        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def names(self, board):
        """Of the rows that are seen, in their order."""
        return [e.text for e in self.all(f"#{board}-table tbody th") if e.is_displayed()]

    def values(self, board, column):
        """Unrounded means in a column, in the order of the rows; None where undefined."""
        script = (
            "const rows = document.querySelectorAll(arguments[0] + ' tbody tr');"
            "return Array.from(rows, row => row.cells[arguments[1]].dataset.v)"
        )
        found = self.driver.execute_script(script, f"#{board}-table", column)
        return [float(text) if text else None for text in found]

    @property
    def hash(self):
        return self.driver.execute_script("return location.hash")

    def press(self, *keys):
        from selenium.webdriver.common.action_chains import ActionChains

        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def focused(self):
        return self.driver.switch_to.active_element

    def check_quiet(self):
        """No request but for files, and nothing on the console."""
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self.requested.append(message["params"]["request"]["url"])
        others = [url for url in self.requested if not url.startswith(("file:", "data:"))]
        assert self.requested
        assert others == []
        assert [entry["message"] for entry in self.driver.get_log("browser")] == []


@pytest.fixture(scope="module")
def chromium():
    """Programs that the test needs; it fails without them."""
    found = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    missing = [name for name, place in found.items() if place is None]
    if missing:
        pytest.fail(
            f"{' and '.join(missing)} not found. Install them (Debian: apt-get install chromium "
            "chromium-driver), or leave out `-m services`."
        )
    return found


@pytest.fixture
def start(chromium):
    """start(*flags): a browser."""
    try:
        from selenium import webdriver
    except ImportError:
        pytest.fail("selenium is not installed. Install the extra: pip install -e '.[browser]'")
    drivers = []

    def begin(*flags, size=SIZE):
        options = webdriver.ChromeOptions()
        options.binary_location = chromium["chromium"]
        window = f"--window-size={size[0]},{size[1]}"
        for flag in (
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            window,
            *NO_NETWORK,
            *flags,
        ):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        service = webdriver.ChromeService(executable_path=chromium["chromedriver"])
        drivers.append(webdriver.Chrome(options=options, service=service))
        return Browser(drivers[-1])

    yield begin
    for driver in drivers:
        driver.quit()


def test_sort_filter_open_a_run_and_come_back(start, whole, tmp_path):
    from selenium.webdriver.common.keys import Keys

    browser = start()
    browser.open(whole / "index.html")
    board = "made-group"
    delivered = browser.names(board)
    assert delivered[0] == "ecl †"
    assert browser.find("#count").text == "6 of 6 rows"

    # Sorting, by keyboard alone.
    heading = browser.find(f"#{board}-table th[data-sort={KEY_SORT}]")
    button = browser.find(f"#{board}-table th[data-sort={KEY_SORT}] button")
    browser.driver.execute_script("arguments[0].focus()", button)
    browser.press(Keys.ENTER)
    column = 3  # method, seeds, Acc, Sen
    assert heading.get_attribute("aria-sort") == "descending"
    assert browser.values(board, column) == sorted(browser.values(board, column), reverse=True)
    browser.press(Keys.SPACE)
    assert heading.get_attribute("aria-sort") == "ascending"
    assert browser.values(board, column) == sorted(browser.values(board, column))
    assert len(browser.all(f"#{board}-table th[aria-sort]")) == 1
    assert browser.focused() == button

    # Filtering.
    browser.find("#filter-text").send_keys("ce")
    assert browser.names(board) == ["ce@strong", "ce"]
    assert browser.find("#count").text == "2 of 6 rows"
    assert browser.find("#count").get_attribute("aria-live") == "polite"
    assert "q=ce" in browser.hash
    assert f"{KEY_SORT}.ascending" in browser.hash

    # A run page, a mistake, its command; and back to the same view.
    view = browser.hash
    browser.find(f"#{board}-table tbody tr:not([hidden]) td.runs a").click()
    assert "/runs/" in browser.driver.current_url
    assert browser.find("h1").text == "ce@strong, seed 0"
    browser.find(".copy").click()
    assert browser.find(".command [role=status]").text in (
        "Copied.",
        "Selected: press Ctrl+C or ⌘C.",
    )
    browser.driver.back()
    assert browser.hash == view
    assert browser.names(board) == ["ce@strong", "ce"]
    assert browser.find("#filter-text").get_attribute("value") == "ce"
    picture = tmp_path / "site.png"
    assert browser.driver.save_screenshot(str(picture))
    assert picture.stat().st_size > 10_000
    browser.find("#filter-reset").click()
    assert browser.names(board) == delivered
    assert browser.hash == ""
    browser.check_quiet()


def test_a_shared_view_opens_as_it_was(start, whole):
    browser = start()
    state = f"#data=made&seeds=3&kind=default&sort.made-group-table={KEY_SORT}.ascending"
    browser.open(whole / "index.html", state)
    assert browser.names("made-group") == ["ce", "ecl †"]
    assert browser.find("#count").text == "2 of 6 rows"
    assert not browser.find("#other-paper").is_displayed()
    # A place on the page is no state; a state that means nothing changes nothing.
    for state in ("#methods", "#sort.made-group-table=nothing.sideways&data=unknown"):
        browser.open(whole / "index.html", state)
        browser.driver.refresh()
        assert browser.find("#count").text == "6 of 6 rows"
    browser.check_quiet()


def test_undefined_numbers_come_last_either_way(start, whole):
    page = whole.parent / "undefined.html"
    text = (whole / "index.html").read_text("utf-8").replace('"assets/', '"site/assets/')
    first = re.search(r'<td class="number" data-v="0\.[^"]*">', text)[0]
    page.write_text(text.replace(first, '<td class="number" data-v="">', 1), "utf-8")
    browser = start()
    browser.open(page)
    for direction in ("descending", "ascending"):
        browser.find("#made-group-table th[data-sort=accuracy] button").click()
        values = browser.values("made-group", 2)
        assert values[-1] is None, direction
        assert None not in values[:-1]
    browser.check_quiet()


def test_equal_rows_stay_and_published_ones_stay_apart(start, site, made_once, tmp_path):
    """Whichever way: the page is delivered with three equal rows, papers' rows below them."""
    folder, _ = site(made_once, out=tmp_path / "site", datasets=["made"])
    index = folder / "index.html"
    text = index.read_text("utf-8")
    rows = re.findall(r"<tr data-find=.*?</tr>\n", text, re.S)
    equal = [re.sub(r'data-v="0[^"]*"', 'data-v="0.5"', row) for row in rows]
    paper = (
        '</tbody>\n<tbody class="published">\n<tr class="heading"><th>Published</th></tr>\n'
        f"{rows[0].replace(' data-kind=', ' data-was=')}</tbody>"
    )
    for row, other in zip(rows, equal, strict=True):
        text = text.replace(row, other)
    index.write_text(text.replace("</tbody>", paper, 1), "utf-8")
    browser = start()
    browser.open(index)
    delivered = browser.names("made-group")
    assert delivered[-2] == "Published"
    for direction in ("descending", "ascending"):
        browser.find("#made-group-table th[data-sort=accuracy] button").click()
        heading = browser.find("#made-group-table th[data-sort=accuracy]")
        assert heading.get_attribute("aria-sort") == direction
        assert browser.names("made-group") == delivered
    # With no row below it, their heading goes too.
    browser.find("#filter-text").send_keys("ce")
    assert "Published" not in browser.names("made-group")


def test_capitals_do_not_matter_and_a_changed_address_is_followed(start, whole):
    browser = start()
    browser.open(whole / "index.html")
    browser.find("#filter-text").send_keys("CE")
    assert browser.names("made-group") == ["ce", "ce@strong"]
    for word, names in {"trong": [], "strong": ["ce@strong"], "ce@str": ["ce@strong"]}.items():
        browser.find("#filter-text").clear()
        browser.find("#filter-text").send_keys(word)
        assert browser.names("made-group") == names
    go = (
        "const done = arguments[1]; location.hash = arguments[0];"
        "addEventListener('hashchange', () => done(), {once: true})"
    )
    browser.driver.execute_async_script(go, "#q=ECL")
    assert browser.names("made-group") == ["ecl †"]
    browser.driver.execute_async_script(go, "#methods")  # a place, which changes nothing
    assert browser.names("made-group") == ["ecl †"]
    browser.check_quiet()


def test_what_is_printed_is_whole(start, whole):
    browser = start()
    browser.open(next((whole / "runs").glob("*-seed-0.html")))
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    cut = browser.driver.execute_script(
        "document.querySelectorAll('details').forEach(one => { one.open = true; });"
        "const code = document.querySelector('.config code');"
        "code.textContent = (code.textContent + 'x'.repeat(400) + '\\n').repeat(200);"
        "return Array.from(document.querySelectorAll('.scroll, pre'))"
        ".filter(one => one.scrollHeight > one.clientHeight + 1)"
        ".map(one => one.className)"
    )
    assert cut == []


def test_without_scripts_the_page_is_whole(start, whole):
    browser = start("--blink-settings=scriptEnabled=false")
    browser.open(whole / "index.html")
    assert len(browser.names("made-group")) == 5
    assert not browser.find("#filter").is_displayed()
    assert browser.all("th button") == []


def test_hostile_names_run_nothing(start, whole):
    from selenium.common.exceptions import NoAlertPresentException

    browser = start()
    for page in (whole / "index.html", *sorted((whole / "runs").glob("*-seed-0.html"))):
        browser.open(page)
        with pytest.raises(NoAlertPresentException):
            _ = browser.driver.switch_to.alert.text
        assert len(browser.all("script")) == 1
        # Whatever a page could be made to hold, its policy keeps scripts in it from running.
        ran = browser.driver.execute_script(
            "const one = document.createElement('script'); one.textContent = 'window.ran = 1';"
            "document.body.append(one); return window.ran"
        )
        assert ran is None
    refused = [entry["message"] for entry in browser.driver.get_log("browser")]
    assert refused
    assert all("Content Security Policy" in message for message in refused)


@pytest.mark.parametrize("width", [320, 768, 1280])
def test_nothing_is_wider_than_the_window(start, whole, width):
    """Tables scroll in frames of their own; a headless window has a least width of its own."""
    browser = start(size=(width, 900))
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    run = next((whole / "runs").glob("*-seed-0.html"))
    for page in (whole / "index.html", run, whole / "methods" / "ecl.html"):
        browser.open(page)
        wide = browser.driver.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width, page.name


def test_two_thousand_rows_sort_and_filter_at_once(start, whole):
    page = whole.parent / "many.html"
    text = (whole / "index.html").read_text("utf-8").replace('"assets/', '"site/assets/')
    row = re.search(r"<tr data-find=.*?</tr>\n", text, re.S)[0]
    many = "".join(
        re.sub(r'data-v="0\.[^"]*"', f'data-v="0.{(7919 * i) % 2003:04d}"', row)
        for i in range(2000)
    )
    page.write_text(text.replace(row, many, 1), "utf-8")
    browser = start()
    browser.open(page)
    timed = (
        "const begun = performance.now(); arguments[0](); document.body.offsetHeight;"
        "return performance.now() - begun"
    )
    click = "document.querySelector('th[data-sort=accuracy] button').click()"
    find = (
        "const field = document.getElementById('filter-text'); field.value = 'focal';"
        "field.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    took = {}
    for name, action in {"sort": click, "again": click, "filter": find}.items():
        begun = time.monotonic()
        took[name] = browser.driver.execute_script(f"{timed.replace('arguments[0]()', action)}")
        assert time.monotonic() - begun < 10
    print({name: f"{ms:.0f} ms" for name, ms in took.items()})
    # Layout of the whole table included, on a machine that may be busy.
    assert max(took.values()) < 2000, took
