"""The page of an encoder-decoder: three tabs, two texts."""

import time
import xml.dom.minidom

from browser import ActionChains, Keys, PageTest, main, setUpModule, tearDownModule  # noqa: F401


class Translations(PageTest):
    """Encoder, decoder and cross of one text and its translation, which has twice as many tokens."""

    def tab(self):
        return [t.text for t in self.all('[role="tab"]') if t.get_attribute("aria-selected") == "true"]

    def test_rows_are_the_library_s_in_every_tab(self):
        for tokens in (12, 44):
            rows = self.open("translation", tokens)
            self.assertEqual({row["tab"] for row in rows}, {0, 1, 2})
            for row in rows:
                tab = ("", "&tab=decoder", "&tab=cross")[row["tab"]]
                self.go(f"#{row['layer']}.{row['head']}{tab}&view=heat&q={row['query']}")
                self.wait(lambda: self.tab() == [("Encoder", "Decoder", "Cross")[row["tab"]]]
                          and self.find("#head-title").text == f"Head {row['layer']}.{row['head']}"
                          and self.chips() and f"#{row['query']}" in self.chips()[0])
                self.check_list(self.listed(), row["row"])

    def test_columns_are_queries_of_the_target(self):
        rows = self.open("translation", 44, "#1.2&tab=cross&k=7")
        column = self.listed("queries")
        self.assertEqual(len(column), 10)
        for row in rows:
            if (row["tab"], row["layer"], row["head"]) == (2, 1, 2) and row["query"] in column:
                self.assertAlmostEqual(column[row["query"]], row["row"][7], delta=1e-9)
        self.press(Keys.ESCAPE)
        self.wait(lambda: self.link() == "#1.2&tab=cross")
        table = self.table()
        self.assertEqual([len(table), len(table[0])], [44, 22])
        for row in rows:
            if (row["tab"], row["layer"], row["head"]) == (2, 1, 2):
                for weight, want in zip(table[row["query"]], row["row"], strict=True):
                    self.assertAlmostEqual(weight, want, delta=1e-12)

    def test_tabs_by_mouse_and_keyboard(self):
        self.open("translation", 12)
        tabs = self.all('[role="tab"]')
        self.assertEqual([t.text for t in tabs], ["Encoder", "Decoder", "Cross"])
        self.assertIn("6 tokens", self.find("#facts").text)
        tabs[2].click()
        self.wait(lambda: self.link() == "#overview&tab=cross")
        self.assertIn("12 target × 6 source tokens", self.find("#facts").text)
        self.wait_for_thumbnails(6, 12)
        # The same head in another tab; the same query where it is the same text.
        self.go("#1.1&tab=cross&q=4&k=2")
        self.wait(lambda: len(self.chips()) == 2)
        tabs[1].click()
        self.wait(lambda: self.link() == "#1.1&tab=decoder&q=4")
        self.press(",")
        self.wait(lambda: self.link() == "#1.1" and self.tab() == ["Encoder"])
        self.press(",")  # there is none before
        for link in ("#1.1&tab=decoder", "#1.1&tab=cross"):
            self.press(".")
            self.wait(lambda: self.link() == link)
        tabs[2].send_keys(Keys.ARROW_RIGHT)
        self.wait(lambda: self.tab() == ["Encoder"])
        self.assertEqual(self.driver.execute_script("return document.activeElement.textContent"), "Encoder")
        self.press(Keys.END)
        self.wait(lambda: self.tab() == ["Cross"])
        self.assertEqual([t.get_attribute("tabindex") for t in tabs], ["-1", "-1", "0"])
        self.driver.back()
        self.wait(lambda: self.tab() == ["Encoder"])
        # The overview of this tab, and of others by their findings.
        self.go("#1.1&tab=decoder")
        self.wait(lambda: self.tab() == ["Decoder"])
        self.press("o")
        self.wait(lambda: self.link() == "#overview&tab=decoder")
        self.find("#findings a").click()
        self.wait(lambda: "&tab=decoder" in self.link() and self.find("#head").is_displayed())
        self.find("#brand").click()
        self.wait(lambda: self.link() == "#overview&tab=decoder")

    def test_cross_has_no_neighbours(self):
        self.open("translation", 12, "#1.1&tab=cross&stat=previous&dir=at&view=text&q=99&k=6")
        self.assertEqual(self.chips()[0], "nothing locked")  # the source has tokens 0 to 5
        self.assertFalse(self.find("#dirs").is_displayed())
        statistics = self.find("#statistics").text
        for word in ("Entropy", "First", "Special", "Largest"):
            self.assertIn(word, statistics)
        for word in ("Previous", "Next", "Self", "Distance", "–"):
            self.assertNotIn(word, statistics)
        self.assertIn("no distance", self.find("#tab-text").text)
        self.press("o")
        self.wait(lambda: self.find("#overview").is_displayed())
        self.assertEqual([b.text for b in self.all("#stats button")], ["Entropy", "First", "Special"])
        self.press(",")
        self.wait(lambda: self.tab() == ["Decoder"])
        self.assertIn("Previous", [b.text for b in self.all("#stats button")])

    def test_two_texts(self):
        self.open("translation", 12, "#0.1&tab=cross&view=text")
        direction = "return getComputedStyle(document.querySelector(arguments[0])).direction"
        self.assertEqual(self.driver.execute_script(direction, ".of-k .segment"), "rtl")
        self.assertEqual(self.driver.execute_script(direction, ".of-q .segment"), "ltr")
        self.assertEqual([len(self.all(f".of-{side} .token")) for side in "kq"], [6, 12])
        tinted = "return document.querySelectorAll(arguments[0] + ' .token[style*=background]').length"
        self.find('.of-q .token[data-unit="5"]').click()
        self.wait(lambda: "q=5" in self.link())
        row = self.listed()
        self.assertTrue(self.driver.execute_script(tinted, ".of-k"))
        self.assertFalse(self.driver.execute_script(tinted, ".of-q"))
        ActionChains(self.driver).move_to_element(self.find('.of-k .token[data-unit="2"]')).perform()
        self.wait(lambda: self.all("#why svg"))
        self.find('.of-k .token[data-unit="2"]').click()
        self.wait(lambda: self.link().endswith("q=5&k=2"))
        self.assertEqual(self.listed()[2], row[2])
        self.go("#0.1&tab=cross&view=text&k=2")
        self.wait(lambda: self.driver.execute_script(tinted, ".of-q"))
        self.assertFalse(self.driver.execute_script(tinted, ".of-k"))
        # Labels keep their order among text that runs the other way.
        for view in ("lines", "heat", "text"):
            self.find(f'#views [data-view="{view}"]').click()
            svg = xml.dom.minidom.parseString(self.export("svg"))
            texts = [e.firstChild.data for e in svg.getElementsByTagName("text") if e.firstChild]
            self.assertTrue(any("\u0622" in text for text in texts), view)
        # Following the generation, the source tells where it came from.
        self.go("#0.1&tab=cross&view=text")
        self.wait(lambda: self.find("#step-what").text == "11 tokens were generated")
        self.press("n")
        self.wait(lambda: self.link() == "#0.1&tab=cross&view=text&q=0")
        self.assertEqual(len(self.all(".of-q .token.chosen")), 1)
        self.assertEqual(len(self.all(".of-k .token.later")), 0)

    def test_long_texts(self):
        """More queries than a heat map has cells, and fewer keys; thumbnails that the file brings."""
        rows = self.open("translation", 1300, "#1.2&tab=cross&view=heat&q=650")
        row = next(r for r in rows if (r["tab"], r["layer"], r["head"], r["query"]) == (2, 1, 2, 650))
        self.check_list(self.listed(), row["row"])
        self.wait_for_thumbnails(64, 64)
        for link in ("#avg&tab=cross&view=heat&merge=1", "#0.avg&tab=cross&view=text&k=600", "#1.2&tab=cross&k=649"):
            self.go(link)
            self.wait(lambda: self.link() == link)
            time.sleep(0.2)

    def test_nothing_overflows(self):
        for width, height in ((1280, 800), (768, 1024), (375, 812)):
            self.browser.size(width, height)
            for link in ("#overview&tab=cross", "#1.1&tab=cross&q=5&k=2", "#1.1&tab=cross&view=heat&q=5",
                         "#1.1&tab=cross&view=text&q=5"):
                self.open("translation", 12, link)
                wide = self.scrolls_sideways()
                self.assertFalse(wide, f"{width} px: {link} scrolls sideways")

    def test_one_record_has_no_tabs(self):
        self.open("plain", 12, "#0.0&tab=cross")
        self.assertFalse(self.find("#tabs").is_displayed())
        self.assertEqual(self.find("#head-title").text, "Head 0.0")
        self.press(".")
        self.assertEqual(self.all('[role="tab"]'), [])


if __name__ == "__main__":
    main()
