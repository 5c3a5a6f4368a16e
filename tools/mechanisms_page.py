#!/usr/bin/env python3
"""Assembles docs/mechanisms.md from docs/mechanisms/*.md, the texts that `attn explain` prints.
`--check` writes nothing and fails when the page is not up to date, or a text lacks a section."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/mechanisms.md"
TEXTS = ROOT / "docs/mechanisms"
SECTIONS = ["Define", "Why", "Intuition", "Fails when", "Trade-offs"]
# In the order of reading; texts that are not named come after them.
ORDER = ["exact", "window", "longformer", "bigbird", "additive", "luong", "linear", "performer",
         "retnet", "gla", "rwkv4", "rwkv", "delta", "rwkv7", "mamba", "mamba2"]
HEAD = """# Mechanisms

<!-- Assembled by tools/mechanisms_page.py from docs/mechanisms/: edit those. -->

Every mechanism of this library under the same five headings. `attn explain NAME` prints the same
text in a terminal, and below it what the mechanism costs on your machine.

Symbols: D is the width of a query and a key, Dv that of a value; i and t count tokens. A state S is
D x Dv for each head.

![Time and memory against the length](mechanisms/curves.svg)

`make bench-curves` draws this for your machine, from [these figures](mechanisms/curves.csv): one
sequence, 12 heads of width 64, forward, each mechanism until a point takes 10 s. Beside the names
are the growth exponents: 2 means that twice the tokens take four times as long.

"""


def order(path):
    name = path.stem
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)


def problems_of(path, text):
    if not re.match(r"# \S", text):
        yield f"{path.name}: does not begin with its title"
    found = re.findall(r"^## (.*)$", text, re.MULTILINE)
    if found != SECTIONS:
        yield f"{path.name}: its sections are {found}, not {SECTIONS}"


def anchor(title):
    return re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")


def assemble(texts):
    titles = [text.splitlines()[0][2:] for text in texts]
    page = HEAD + " · ".join(f"[{title}](#{anchor(title)})" for title in titles) + "\n"
    for text in texts:
        page += "\n" + re.sub(r"^#", "##", text.strip(), flags=re.MULTILINE) + "\n"
    return page


def main():
    paths = sorted(TEXTS.glob("*.md"), key=order)
    texts = [path.read_text() for path in paths]
    problems = [p for path, text in zip(paths, texts) for p in problems_of(path, text)]
    if not paths:
        problems.append(f"no texts in {TEXTS}")
    page = assemble(texts)
    if sys.argv[1:] == ["--check"]:
        if not PAGE.exists() or PAGE.read_text() != page:
            problems.append("docs/mechanisms.md is not up to date: run tools/mechanisms_page.py")
    elif not problems:
        PAGE.write_text(page)
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
