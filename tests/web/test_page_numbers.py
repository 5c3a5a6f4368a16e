"""What the page shows is what the library computes."""

import math

from browser import By, PageTest, main, setUpModule, tearDownModule  # noqa: F401


class Numbers(PageTest):
    def test_rows_are_the_library_s(self):
        for tokens in (12, 128, 512):
            rows = self.open(tokens=tokens)
            for row in rows:
                self.show(row["layer"], row["head"], row["query"], "lines")
                self.check_list(self.listed(), row["row"])

    def test_every_mask_and_score_is_honoured(self):
        rows = self.open("general", 40)
        for row in rows:
            self.show(row["layer"], row["head"], row["query"])
            # Biases travel as float32.
            self.check_list(self.listed(), row["row"], 1e-6)

    def test_columns_agree_with_rows(self):
        rows = self.open(tokens=128, link="#3.3&k=64")
        column = self.listed("queries")
        self.assertEqual(len(column), 10)
        for query in (0, 64, 127):
            if query in column:
                self.assertAlmostEqual(column[query], self.row_of(rows, 3, 3, query)[64], delta=1e-9)
        unit, weight = next(iter(column.items()))
        self.go(f"#3.3&q={unit}&k=64")
        self.wait(lambda: self.all("#why svg"))
        self.assertAlmostEqual(self.listed()[64] if 64 in self.listed() else weight, weight, delta=1e-9)

    def test_a_mean_is_the_mean(self):
        rows = self.open(tokens=12, link="#5.avg&q=6")
        mean = self.table()[0]
        heads = []
        for head in range(12):
            self.go(f"#5.{head}&q=6")
            self.wait(lambda: self.find("#head-title").text == f"Head 5.{head}")
            heads.append(self.table()[0])
        for head in (5, 11):
            for weight, want in zip(heads[head], self.row_of(rows, 5, head, 6)):
                self.assertAlmostEqual(weight, want, delta=1e-12)
        for unit, weight in enumerate(mean):
            self.assertAlmostEqual(weight, sum(row[unit] for row in heads) / 12, delta=1e-12)

    def test_why_adds_up(self):
        rows = self.open(tokens=12, link="#2.2&q=6&k=5")
        cells = {row.find_elements(By.TAG_NAME, "td")[0].text: row.find_elements(By.TAG_NAME, "td")[1].text
                 for row in self.all("#why tr")}
        probability = self.number(cells["probability e^(…)"])
        self.assertAlmostEqual(probability, self.row_of(rows, 2, 2, 6)[5], delta=0.006 * probability + 1e-9)
        number = self.number
        self.assertAlmostEqual(math.exp(number(cells["score"]) - number(cells["− log Σ e^score"])), probability,
                               delta=0.05 * probability + 1e-4)
        self.assertEqual(len(self.all("#why svg rect")), 32)
        bars = [bar.get_attribute("textContent") for bar in self.all("#why svg title")]
        total = sum(number(bar.rsplit("= ", 1)[1]) for bar in bars)
        self.assertAlmostEqual(total, number(cells["sum of products"]), delta=0.02 * max(1, abs(total)) + 0.05)

    def test_hidden_special_tokens_renormalise(self):
        rows = self.open(tokens=12, link="#0.0&q=6&hide=1")
        row = self.row_of(rows, 0, 0, 6)
        rest = sum(row[1:-1])
        listed = self.listed()  # unit 0 is token 1
        self.assertEqual(len(listed), 10)
        for unit, weight in listed.items():
            self.assertAlmostEqual(weight, row[unit + 1] / rest, delta=1e-9)
        self.assertAlmostEqual(sum(listed.values()), 1, delta=1e-9)
        self.assertTrue(any("renormalised" in chip for chip in self.chips()))

    def test_words_sum_keys_and_average_queries(self):
        # Tokens 2 and 3 are light + ##house.
        self.open(tokens=12, link="#0.0&view=text")
        rows = self.table()
        self.find("#merge").click()
        self.wait(lambda: "merge=1" in self.link())
        self.assertEqual(len(self.all(".token")), 11)
        merged = self.table()
        self.assertEqual([len(rows), len(rows[0]), len(merged), len(merged[0])], [12, 12, 11, 11])
        groups = [[0], [1], [2, 3]] + [[t] for t in range(4, 12)]
        for u, queries in enumerate(groups):
            for v, keys in enumerate(groups):
                want = sum(rows[q][k] for q in queries for k in keys) / len(queries)
                self.assertAlmostEqual(merged[u][v], want, delta=1e-12)
        self.find('.token[data-unit="2"]').click()
        self.wait(lambda: "q=2" in self.link())
        self.assertIn("lighthouse", self.chips()[0])

    def test_value_weighted(self):
        self.open(tokens=12, link="#0.0&q=6")
        plain = self.table()[0]
        self.press("v")
        self.wait(lambda: "value=1" in self.link())
        ratios = [weighted / weight for weighted, weight in zip(self.table()[0], plain)]
        self.assertLess(max(ratios[0], ratios[11]), 0.5)  # special tokens bring little
        self.assertGreater(max(ratios), 0.5)
        # The ratio is the size of the key's value, whatever the query.
        self.go("#0.0&q=2&value=1")
        self.wait(lambda: "#2" in self.chips()[0])
        weighted = self.table()[0]
        self.go("#0.0&q=2")
        self.wait(lambda: "value" not in self.link() and "αf(x)" not in self.find("#legend").text)
        for w, p, ratio in zip(weighted, self.table()[0], ratios):
            self.assertAlmostEqual(w / p, ratio, delta=1e-9)


if __name__ == "__main__":
    main()
