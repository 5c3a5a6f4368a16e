#!/usr/bin/env python3
"""Checks what the README and docs promise: C++ blocks are examples that are built and run, `make`
targets exist, links lead somewhere."""

import re
import sys
from pathlib import Path


def squeeze(text):
    return [line.strip() for line in text.splitlines() if line.strip()]


def contains(lines, block):
    return any(lines[i:i + len(block)] == block for i in range(len(lines) - len(block) + 1))


def check_blocks(name, text, root):
    examples = [squeeze(p.read_text()) for p in sorted((root / "examples").glob("*.cpp"))]
    for block in re.findall(r"^```cpp\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if not any(contains(example, squeeze(block)) for example in examples):
            yield f"{name}: no example contains this block:\n{block}"


def check_targets(name, text, root):
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE):
        if target not in targets:
            yield f"{name}: there is no `make {target}`"


def check_links(name, text, root):
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in link and not ((root / name).parent / link).exists():
            yield f"{name}: {link} does not exist"


def main():
    root = Path(sys.argv[1])
    problems = []
    names = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "THIRD_PARTY.md"]
    names += sorted(str(p.relative_to(root)) for p in (root / "docs").rglob("*.md"))
    for name in names:
        text = (root / name).read_text()
        problems += [*check_blocks(name, text, root), *check_targets(name, text, root),
                     *check_links(name, text, root)]
    readme = (root / "README.md").read_text()
    quickstart = squeeze((root / "examples/quickstart.cpp").read_text())
    blocks = [squeeze(b) for b in re.findall(r"^```cpp\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)]
    if quickstart not in blocks:
        problems.append("README.md: the first C++ is not examples/quickstart.cpp")
    print(*problems, sep="\n")
    print(f"{len(names)} texts, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
