"""The page opens, whatever it is made of: lengths, sizes, themes, tokens that want to break out."""

import os
import subprocess

from browser import Keys, PageTest, main, setUpModule, tearDownModule  # noqa: F401


class Opens(PageTest):
    def test_every_length_in_both_themes(self):
        for theme in ("light", "dark"):
            self.browser.theme(theme)
            for tokens in (12, 128, 512):
                self.open(tokens=tokens)
                self.assertIn(f"{tokens} tokens", self.find("#facts").text)
                self.assertEqual(len(self.all("#overview .cell")), 6 * 12 + 6 + 1)
                self.assertEqual(len(self.all("#findings li")), 3)
                # All thumbnails come: 64 cells a side, or as many as there are tokens.
                side = min(tokens, 64)
                self.wait_for_thumbnails(side)
        self.browser.theme("light")

    def test_nothing_overlaps_or_overflows(self):
        script = """
          const wide = document.documentElement.scrollWidth > innerWidth + 1;
          const boxes = [...document.querySelectorAll('.top > *, #overview .bar > *, .stage .bar > *, .choice > *, #chips > *')]
            .filter(e => e.offsetParent && e.children.length === 0 || e.matches('.choice'))
            .map(e => [e, e.getBoundingClientRect()]);
          const bad = [];
          for (const [a, x] of boxes) for (const [b, y] of boxes) {
            if (a === b || a.contains(b) || b.contains(a)) continue;
            if (x.left < y.right - 2 && y.left < x.right - 2 && x.top < y.bottom - 2 && y.top < x.bottom - 2) bad.push(a.outerHTML + b.outerHTML);
          }
          // What a box that does not scroll cuts off.
          for (const e of document.querySelectorAll('.top > *, .choice > *, #findings > *, .stage .bar > *, #statistics, .detail > *')) {
            const x = e.getBoundingClientRect();
            if (e.offsetParent && x.width && (x.right > innerWidth + 1 || x.left < -1)) bad.push(e.outerHTML);
          }
          return [wide, bad];"""
        for width, height in ((1280, 800), (1920, 1080), (800, 900), (768, 1024), (375, 812)):
            self.browser.size(width, height)
            for tokens in (12, 128, 512):
                for link in ("", "#2.3&q=5&k=2&merge=1&hide=1&value=1", "#2.3&view=heat&q=5", "#2.3&view=text&q=5"):
                    self.open(tokens=tokens, link=link)
                    wide, bad = self.driver.execute_script(script)
                    self.assertFalse(wide, f"{width} px: {link} scrolls sideways")
                    self.assertEqual(bad, [], f"{width} px: {link}")

    def test_without_a_worker(self):
        """Browsers may refuse workers to a file: everything comes, a little later."""
        script = self.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {
            "source": "window.Worker = function () { throw new Error('no workers'); }"})
        try:
            rows = self.open(tokens=128, link="#avg&view=heat&k=3")
            self.wait_for_thumbnails(64)
            self.wait(lambda: len(self.listed("queries")) == 10)
            self.go("#3.3&q=64")
            self.wait(lambda: "#64" in self.chips()[0])
            self.check_list(self.listed(), self.row_of(rows, 3, 3, 64))
        finally:
            self.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)

    def test_a_long_text(self):
        """More tokens than a heat map has cells: pooled, and still exact where one looks."""
        rows = self.open(tokens=1300, link="#0.0&view=heat&q=650")
        self.check_list(self.listed(), self.row_of(rows, 0, 0, 650))
        self.find('#views [data-view="lines"]').click()
        self.wait(lambda: self.link() == "#0.0&q=650")
        self.press(Keys.ESCAPE)
        self.wait(lambda: self.link() == "#0.0")

    def test_the_page_of_attn_look(self):
        attn = os.environ.get("ATTN_BIN")
        if not attn:
            self.skipTest("ATTN_BIN does not name the command")
        page = self.folder / "look.html"
        result = subprocess.run([attn, "look", "demo", "The cat sat on the mat.", "-o", page],
                                capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn(str(page), result.stdout.splitlines())
        self.driver.get(page.as_uri() + "#0.0&q=1")
        self.wait(lambda: self.chips()[0].startswith("Query"))
        self.assertAlmostEqual(sum(self.listed().values()), 1, delta=0.2)

    def test_without_special_tokens_nothing_offers_to_hide_them(self):
        self.open("bare", 12, "#0.0&q=5&hide=1&stat=special")
        self.assertFalse(self.find("#hide-label").is_displayed())
        self.assertNotIn("Special", self.find("#statistics").text)
        self.assertFalse(any("renormalised" in chip for chip in self.chips()))
        for key in "hl":
            self.press(key)
        self.wait(lambda: "scale=log" in self.link())
        self.assertNotIn("hide", self.find("#chips").text)
        self.open("bare", 12)
        self.assertNotIn("Special", [button.text for button in self.all("#stats button")])
        self.open("plain", 12)
        self.assertIn("Special", [button.text for button in self.all("#stats button")])

    def test_hostile_tokens_stay_text(self):
        self.open("hostile", 24, "#0.0&view=text")
        self.assertIsNone(self.driver.execute_script("return window.broken ?? null"))
        texts = [token.text for token in self.all(".token")]
        self.assertIn("</script><script>window.broken=1</script>", texts)
        self.assertIn("<img src=x onerror=window.broken=1>", texts)
        self.assertEqual(texts[4], "\ufffd\ufffd")
        self.assertIn("window.broken", self.find("#title").text)


if __name__ == "__main__":
    main()
