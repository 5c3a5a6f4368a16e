"""Pages in headless Chromium, as a user has them: what the tests of the page are written with.

Pages come from make_test_page, which also writes the library's own attention rows; what the page
shows is compared with those. Found beside $ATTN_BIN, or named by $ATTN_TEST_PAGE.
"""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

try:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select, WebDriverWait

    MISSING = ""
except ImportError as error:
    webdriver = Service = ActionChains = By = Keys = Select = WebDriverWait = None
    MISSING = f"selenium is missing: {error}"

HERE = Path(__file__).resolve().parent


def find_tool():
    """make_test_page."""
    if os.environ.get("ATTN_TEST_PAGE"):
        return Path(os.environ["ATTN_TEST_PAGE"])
    if os.environ.get("ATTN_BIN"):
        return Path(os.environ["ATTN_BIN"]).parent / "make_test_page"
    return HERE.parent.parent / "build/release/bin/make_test_page"


def reason_to_skip():
    if MISSING:
        return MISSING
    if not shutil.which("chromium"):
        return "chromium is missing"
    if not shutil.which("chromedriver"):
        return "chromedriver is missing (Debian: chromium-driver)"
    if not find_tool().exists():
        return f"{find_tool()} is missing: build make_test_page"
    return ""


class Browser:
    """One Chromium, with its console and network logs."""

    def __init__(self, downloads, width=1280, height=800):
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage",
                         f"--window-size={width},{height}"):
            options.add_argument(argument)
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(service=Service(shutil.which("chromedriver")), options=options)
        self.size(width, height)

    def size(self, width, height):
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": False})

    def theme(self, value):
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {
            "features": [{"name": "prefers-color-scheme", "value": value}]})


def setUpModule():
    """One browser and one folder for the tests of a module, which imports this by name."""
    reason = reason_to_skip()
    if reason:
        raise unittest.SkipTest(reason)
    PageTest.pages = {}
    PageTest.folder = Path(tempfile.mkdtemp(prefix="attn-page-"))
    PageTest.downloads = PageTest.folder / "downloads"
    PageTest.downloads.mkdir()
    PageTest.browser = Browser(PageTest.downloads)


def tearDownModule():
    PageTest.browser.driver.quit()
    shutil.rmtree(PageTest.folder, ignore_errors=True)


def main():
    """Exits with 77 (skipped), saying why, where Chromium, its driver or selenium are missing."""
    if reason_to_skip():
        print("skipped:", reason_to_skip())
        sys.exit(77)
    unittest.main(verbosity=2)


class PageTest(unittest.TestCase):
    """A test with a page in the module's browser."""

    def setUp(self):
        self.driver = self.browser.driver
        self.browser.size(1280, 800)
        for log in ("browser", "performance"):
            self.driver.get_log(log)

    def tearDown(self):
        """After every test: nothing was complained about, and nothing was asked of a network."""
        console = [e for e in self.driver.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]
        self.assertEqual(console, [], "the console is not empty")
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                url = message["params"]["request"]["url"]
                self.assertTrue(url.startswith(("file:///", "data:", "blob:")), f"asked for {url[:80]}")
                if url.startswith("file:///"):
                    self.assertTrue(url.split("#")[0].endswith(".html"), f"asked for {url[:80]}")

    def open(self, kind="plain", tokens=12, link=""):
        page, rows = self.make_page(kind, tokens)
        self.driver.get("about:blank")
        self.driver.get(page.as_uri() + link)
        return rows

    def make_page(self, kind, tokens):
        if (kind, tokens) not in self.pages:
            page, numbers = (self.folder / f"{kind}{tokens}.{ending}" for ending in ("html", "json"))
            printed = subprocess.run([find_tool(), kind, str(tokens), page, numbers], check=True,
                                     capture_output=True, text=True).stdout.strip()
            assert printed == str(page), f"printed {printed}, wrote {page}"
            self.pages[kind, tokens] = page, json.loads(numbers.read_text())["rows"]
        return self.pages[kind, tokens]

    def go(self, link):
        self.driver.execute_script("location.hash = arguments[0]", link)

    def show(self, layer, head, query, view="heat"):
        self.go(f"#{layer}.{head}&view={view}&q={query}")
        self.wait(lambda: self.find("#head-title").text == f"Head {layer}.{head}"
                  and self.chips() and f"#{query}" in self.chips()[0])

    # What the page shows.
    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def wait(self, condition, seconds=20):
        return WebDriverWait(self.driver, seconds, 0.05).until(lambda _: condition())

    def wait_for_thumbnails(self, width, height=None):
        """All come, with so many cells."""
        self.wait(lambda: self.driver.execute_script(
            "return [...document.querySelectorAll('.cell canvas')]"
            ".every(c => c.width === arguments[0] && c.height === arguments[1])", width, height or width), 60)

    def scrolls_sideways(self):
        return self.driver.execute_script("return document.documentElement.scrollWidth > innerWidth + 1")

    def link(self):
        return self.driver.execute_script("return location.hash")

    def listed(self, side="keys"):
        """{unit: weight} of a list beside the view, at full precision."""
        out = {}
        script = "return [...document.querySelectorAll(arguments[0])].map(b => [b.dataset.unit, b.title])"
        for unit, title in self.driver.execute_script(script, f".list.of-{side} button"):
            out[int(unit)] = float(title.rsplit(": ", 1)[1])
        return out

    def chips(self):
        script = "return [...document.querySelectorAll('#chips .chip')].map(c => c.innerText)"
        return [text.replace("\n", " ") for text in self.driver.execute_script(script)]

    def hover_text(self, unit):
        ActionChains(self.driver).move_to_element(self.find(f'.token[data-unit="{unit}"]')).perform()

    def press(self, key):
        ActionChains(self.driver).send_keys(key).perform()

    def row_of(self, rows, layer, head, query):
        for row in rows:
            if (row["layer"], row["head"], row["query"]) == (layer, head, query):
                return row["row"]
        raise KeyError((layer, head, query))

    def downloaded(self, ending, binary=False):
        def there():
            found = [p for p in self.downloads.iterdir() if p.suffix == ending]
            return found[0] if found else None
        path = self.wait(there)
        self.wait(lambda: path.stat().st_size > 0)
        return path.read_bytes() if binary else path.read_text()

    def export(self, kind, binary=False):
        for old in self.downloads.iterdir():
            old.unlink()
        self.find(f'[data-export="{kind}"]').click()
        return self.downloaded("." + kind, binary)

    def table(self):
        """The exported numbers: a row a query, all keys."""
        lines = list(csv.reader(io.StringIO(self.export("csv"))))
        return [[float(x) for x in line[1:]] for line in lines[1:]]

    @staticmethod
    def number(text):
        """A number as the page writes it."""
        return float(text.replace("·10^", "e").replace("−", "-"))

    def check_list(self, listed, row, tolerance=1e-9):
        """The list holds the row's largest weights."""
        self.assertTrue(listed)
        for unit, weight in listed.items():
            self.assertAlmostEqual(weight, row[unit], delta=tolerance)
        rest = [w for unit, w in enumerate(row) if unit not in listed]
        if rest:
            self.assertLessEqual(max(rest), min(listed.values()) + tolerance)
