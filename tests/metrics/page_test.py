"""The page of `report --html` in a real browser: nothing on its console, nothing loaded from elsewhere, hostile names are text,
bars have their widths, light and dark, narrow and wide, on paper.

usage: page_test.py VIRT_RECLAIM [DIRECTORY for the screenshots]
"""

from __future__ import annotations

import base64
import sys
import tempfile
import unittest
from pathlib import Path

from browser import Browser
from metricslib import need, run
from world import HOSTILE, NAMES, World

PROGRAM, PICTURES = "", ""
SCHEMES = ("light", "dark")


class Page(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        directory = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # Chromium's profile
        cls.addClassCleanup(directory.cleanup)
        place = Path(directory.name)
        world = World(place)
        page = place / "page.html"
        made = run(*world.command(PROGRAM, "report", "--html", str(page)))
        if made.returncode != 0:
            raise AssertionError(made.stdout + made.stderr)
        cls.text = page.read_text()
        cls.browser = Browser("chromium", place / "profile")
        cls.addClassCleanup(cls.browser.close)
        cls.browser.open(page.as_uri())

    def media(self, kind: str, scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.browser.call("Emulation.setEmulatedMedia", media=kind, features=features)

    def scheme(self, name: str) -> None:
        self.media("screen", name)

    def wide(self, width: int) -> None:
        self.browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)

    def tearDown(self) -> None:
        complaints = self.browser.of("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        self.assertEqual(complaints, [], "on the console")

    def test_nothing_is_loaded_from_elsewhere(self) -> None:
        urls = [event["params"]["request"]["url"] for event in self.browser.of("Network.requestWillBeSent")]
        self.assertEqual([url for url in urls if not url.startswith(("file:", "data:"))], [])
        self.assertEqual(len([url for url in urls if url.startswith("file:")]), 1, urls)

    def test_hostile_names_are_text(self) -> None:
        self.assertEqual(self.browser.evaluate("document.scripts.length"), 0)
        self.assertTrue(self.browser.evaluate("document.title").startswith("Disk space of qemu:///embed"))
        names = self.browser.evaluate("[...document.querySelectorAll('td.name b')].map(e => e.textContent)")
        self.assertIn(HOSTILE, names)
        self.assertEqual(len(names), len(NAMES))
        self.assertFalse(any("\N{RIGHT-TO-LEFT OVERRIDE}" in name for name in names))

    def test_bars_have_their_widths(self) -> None:
        self.wide(1280)
        bars = self.browser.evaluate(
            "[...document.querySelectorAll('.bar')].map("
            "b => [b.clientWidth, ...[...b.children].map(i => i.getBoundingClientRect().width)])"
        )
        self.assertGreaterEqual(len(bars), len(NAMES) + 1, "of each disk and of the storage")
        for whole, *parts in bars:
            self.assertGreater(whole, 50)
            self.assertLessEqual(sum(parts), whole + 1)
        self.assertGreater(max(sum(parts) for _, *parts in bars), 0)
        described = self.browser.evaluate(
            "[...document.querySelectorAll('[role=img]')].every(e => e.getAttribute('aria-label'))"
        )
        self.assertTrue(described)

    def test_the_trend_and_the_forecast_are_there(self) -> None:
        self.assertGreaterEqual(self.browser.evaluate("document.querySelectorAll('svg polyline').length"), 3)
        shown = self.browser.evaluate("document.querySelector('.card').innerText")
        self.assertRegex(shown, r"2 of 4 disks, since \d{4}-\d\d-\d\d")

    def test_light_and_dark_are_two_pictures(self) -> None:
        self.wide(1280)
        pictures, colours = set(), set()
        for scheme in SCHEMES:
            self.scheme(scheme)
            picture = self.browser.screenshot()
            if PICTURES:
                (Path(PICTURES) / f"report-{scheme}.png").write_bytes(picture)
            self.assertTrue(picture.startswith(b"\x89PNG"))
            self.assertGreater(len(picture), 20_000, "an empty page")
            pictures.add(picture)
            colours.add(self.browser.evaluate("getComputedStyle(document.body).backgroundColor"))
        self.assertEqual((len(pictures), len(colours)), (2, 2))

    def test_fits_a_narrow_screen(self) -> None:
        for width in (1600, 1280, 800, 400):
            self.wide(width)
            self.assertLessEqual(self.browser.evaluate("document.documentElement.scrollWidth"), width)
        if PICTURES:
            (Path(PICTURES) / "report-narrow.png").write_bytes(self.browser.screenshot())

    def test_can_be_printed(self) -> None:
        self.scheme("dark")
        pdf = base64.b64decode(self.browser.call("Page.printToPDF", printBackground=True)["data"])
        self.assertTrue(pdf.startswith(b"%PDF"))
        self.media("print", "dark")
        self.assertEqual(self.browser.evaluate("getComputedStyle(document.body).backgroundColor"), "rgb(255, 255, 255)")


if __name__ == "__main__":
    need("chromium", "virsh", "qemu-system-x86_64")
    PROGRAM, PICTURES = sys.argv[1], (sys.argv[2] if len(sys.argv) > 2 else "")
    unittest.main(argv=sys.argv[:1], verbosity=2)
