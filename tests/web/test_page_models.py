"""Pages of language models: heads that attend, and states that imply attention."""

import time
import xml.dom.minidom

from browser import Keys, PageTest, main, setUpModule, tearDownModule  # noqa: F401


class LanguageModels(PageTest):
    """Causal and windowed layers with grouped heads; the last third of the tokens is generated."""

    def test_rows_are_the_library_s(self):
        for tokens in (12, 45):
            rows = self.open("decoder", tokens)
            self.assertEqual({row["layer"] for row in rows}, {0, 3, 7})
            for row in rows:
                self.show(row["layer"], row["head"], row["query"])
                listed = self.listed()
                self.check_list(listed, row["row"], 1e-6)
                self.assertLessEqual(max(listed), row["query"], "a token sees what comes after it")

    def test_columns_hold_no_earlier_query(self):
        rows = self.open("decoder", 45, "#7.5&k=22")
        column = self.listed("queries")
        self.assertTrue(column)
        self.assertGreaterEqual(min(column), 22)
        for query in (22, 44):
            if query in column:
                self.assertAlmostEqual(column[query], self.row_of(rows, 7, 5, query)[22], delta=1e-6)
        self.go("#3.5&k=22")  # a window of seven
        self.wait(lambda: self.find("#head-title").text == "Head 3.5")
        self.assertLessEqual(max(self.listed("queries")), 28)

    def test_the_text_reads_as_it_was(self):
        self.open("decoder", 45, "#0.0&view=text")
        page = self.driver.execute_script("return document.querySelector('#text .segment').textContent")
        self.assertTrue(page.startswith("Once the light ##house⏎\n counted \U0001f600⋯ that"), page[:60])
        self.assertEqual(len(self.all(".token.generated")), 15)
        self.find('#views [data-view="lines"]').click()
        svg = xml.dom.minidom.parseString(self.export("svg"))
        texts = [e.firstChild.data for e in svg.getElementsByTagName("text") if e.firstChild]
        for label in ("Once", "·light", "⏎", "⋯", "·\U0001f600"):
            self.assertIn(label, texts)

    def test_following_the_generation(self):
        self.open("decoder", 45)
        self.find("#follow-on").click()
        self.wait(lambda: "q=29" in self.link())
        self.assertIn("view=text", self.link())
        self.wait(lambda: "q=31" in self.link())  # goes on by itself
        self.find("#step-play").click()
        self.go("#7.2&view=text&q=29")
        self.wait(lambda: self.find("#head-title").text == "Head 7.2")
        self.assertEqual(self.find("#step-what").text.split(":")[0], "token 1 of 15")
        self.assertEqual(len(self.all(".token.chosen")), 1)
        self.assertEqual(len(self.all(".token.later")), 14)
        self.assertFalse(self.find("#step-back").is_enabled())
        self.press("n")
        self.wait(lambda: "q=30" in self.link() and self.find("#step-what").text.startswith("token 2 of 15"))
        self.press("p")
        self.wait(lambda: "q=29" in self.link())
        self.press("p")  # there is none before
        self.go("#7.2&view=text&q=43")
        self.wait(lambda: self.find("#step-what").text.startswith("token 15 of 15"))
        self.assertFalse(self.find("#step-on").is_enabled())
        self.press(Keys.ESCAPE)
        self.wait(lambda: self.find("#step-what").text == "15 tokens were generated")
        self.open("plain", 12, "#0.0")
        self.assertFalse(self.find("#steps").is_displayed())

    def test_layers_without_room_are_pictures(self):
        rows = self.open("pictures", 700)
        self.assertIn("layers 3,7 did not fit", self.find("#pictures").text)
        self.wait_for_thumbnails(64)
        for row in rows:
            if row["layer"] == 0 or row["query"] == 699:
                self.show(row["layer"], row["head"], row["query"])
                self.check_list(self.listed(), row["row"], 1e-6 if row["layer"] == 0 else 1e-3 * max(row["row"]))
        # A row that is not there says so, and offers those that are.
        self.show(7, 1, 350)
        self.assertTrue(any("a picture" in chip for chip in self.chips()))
        self.assertEqual(self.listed(), {})
        self.assertIn("Not in this file", self.find("#lists").text)
        buttons = self.all("#lists .kept button")
        self.assertEqual(len(buttons), 16)
        buttons[-1].click()
        self.wait(lambda: "q=699" in self.link() and len(self.listed()) == 10)
        for view in ("lines", "text", "heat"):
            self.find(f'#views [data-view="{view}"]').click()
            self.wait(lambda: len(self.listed()) == 10)
        self.assertEqual(len(self.table()), 1)
        # Columns of whole layers come from row sums that the file brings.
        self.go("#0.5&k=3")
        self.wait(lambda: self.find("#head-title").text == "Head 0.5" and self.listed("queries"))
        column = self.listed("queries")
        for query in (350, 699):
            if query in column:
                self.assertAlmostEqual(column[query], self.row_of(rows, 0, 5, query)[3], delta=1e-5)
        for link in ("#avg&view=heat", "#3.avg&view=heat&q=699&k=3&merge=1", "#7.1&k=3", "#avg&view=text&dir=at&k=3"):
            self.go(link)
            self.wait(lambda: self.link() == link)
            time.sleep(0.1)

    def test_nothing_overflows(self):
        for width, height in ((1280, 800), (768, 1024), (375, 812)):
            self.browser.size(width, height)
            for kind, tokens in (("decoder", 45), ("pictures", 700)):
                for link in ("", "#7.1&view=heat&q=20", "#7.1&view=text&q=31", "#7.1&q=31"):
                    self.open(kind, tokens, link)
                    wide = self.scrolls_sideways()
                    self.assertFalse(wide, f"{kind} at {width} px: {link} scrolls sideways")


class Implied(PageTest):
    """States in place of keys: rows travel instead, as float16."""

    def test_rows_and_columns_are_the_library_s(self):
        rows = self.open("implied", 40)
        self.assertIn("states in place of keys", self.find("#implied").text)
        self.assertFalse(self.find("#pictures").is_displayed())
        for row in rows:
            self.show(row["layer"], row["head"], row["query"])
            self.check_list(self.listed(), row["row"], 1e-3 * max(row["row"]))
            self.assertEqual(len(self.chips()), 1)
        self.show(1, 2, 20)
        before = self.listed()
        key = next(iter(before))
        self.go(f"#1.2&q=20&k={key}")
        self.wait(lambda: self.listed("queries"))
        self.assertIn("gates", self.find("#why").text)
        column = self.listed("queries")
        self.assertGreaterEqual(min(column), key)
        if 20 in column:
            self.assertAlmostEqual(column[20], before[key], delta=1e-6)
        for link in ("#avg&view=heat", "#1.avg&view=text&dir=at&k=3", "#avg&view=lines", "#0.1&k=3&merge=1"):
            self.go(link)
            self.wait(lambda: self.driver.execute_script("return location.hash") == link)
            time.sleep(0.1)

    def test_a_long_text_has_some_rows(self):
        rows = self.open("implied", 700)
        self.assertIn("did not fit", self.find("#pictures").text)
        self.show(1, 2, 699)
        self.assertTrue(any("a picture, and rows of 93 tokens" in chip for chip in self.chips()), self.chips())
        expected = self.row_of(rows, 1, 2, 699)
        self.check_list(self.listed(), expected, 1e-3 * max(expected))


if __name__ == "__main__":
    main()
