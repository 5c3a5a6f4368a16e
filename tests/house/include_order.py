#!/usr/bin/env python3
"""Checks that includes keep to the order of rooms in docs/architecture.md.

A file of a room may include its own room, rooms listed before it, and public headers. Public
headers include only public headers and the standard library. Rooms of attn::core include no
third-party header but Highway and OpenMP. `include_order.py ROOT` checks a tree; `--self-test`
makes bad trees and checks that each is found.
"""

import re
import sys
import tempfile
from pathlib import Path

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
ROW = re.compile(r"^\| `([\w/]+)` \|", re.MULTILINE)
SOURCES = {".h", ".cpp"}
LAST_PLAIN_ROOM = "recurrent"
CORE_MAY_USE = ("hwy/", "omp.h", "sched.h", "unistd.h", "sys/", "immintrin.h", "arm_neon.h",
                "cpuid.h", "pthread.h")


def read_rooms(root):
    """Folders in the order of the table; the first is include/attn."""
    text = (root / "docs/architecture.md").read_text()
    rooms = ROW.findall(text)
    if len(rooms) < 3 or rooms[0] != "include/attn":
        raise SystemExit("include_order: found no table of rooms in docs/architecture.md")
    return rooms


def is_standard(header):
    return "/" not in header and "." not in header


def check_file(path, root, rank, room):
    """Yields a message for each include that goes against the order."""
    names = {Path(folder).name: place for folder, place in rank.items() if folder != "include/attn"}
    core = rank.get("src/" + LAST_PLAIN_ROOM, 0)
    for bracket, header in INCLUDE.findall(path.read_text(encoding="utf-8", errors="replace")):
        where = f"{path.relative_to(root)}: #include {header}"
        first = header.split("/")[0]
        if ".." in Path(header).parts:
            yield f"{where}: leaves its folder, name the room"
        elif first == "attn" and header.count("/") == 1:
            if not (root / "include" / header).exists():
                yield f"{where}: there is no such public header"
        elif room == "include/attn":
            if not is_standard(header):
                yield f"{where}: a public header includes only public headers and the standard library"
        elif bracket == '"' and first in names:
            if names[first] > rank[room]:
                yield f"{where}: {room} is listed before {first}"
        elif rank[room] <= core and not is_standard(header):
            if not header.startswith(CORE_MAY_USE):
                yield f"{where}: attn::core needs Highway and OpenMP only"


def check(root):
    rooms = read_rooms(root)
    rank = {folder: place for place, folder in enumerate(rooms)}
    problems = []
    for folder in sorted((root / "src").iterdir()):
        if folder.is_dir() and f"src/{folder.name}" not in rank:
            problems.append(f"src/{folder.name}: not in the table of docs/architecture.md")
    files = 0
    for room in rooms:
        for path in sorted((root / room).rglob("*")):
            if path.suffix in SOURCES:
                files += 1
                problems.extend(check_file(path, root, rank, room))
    return files, problems


def self_test():
    table = ("| room | what |\n|---|---|\n| `include/attn` | h |\n| `src/base` | b |\n"
             "| `src/mask` | m |\n| `src/attention` | a |\n| `src/recurrent` | r |\n| `src/model` | m |\n")
    good = {
        "include/attn/mask.h": '#include <vector>\n#include "attn/error.h"\n',
        "include/attn/error.h": "#include <string>\n",
        "src/base/x.h": "#include <hwy/highway.h>\n",
        "src/mask/x.cpp": '#include "attn/mask.h"\n#include "base/x.h"\n#include "mask/y.h"\n',
        "src/model/x.cpp": "#include <nlohmann/json.hpp>\n",
    }
    bad = {
        "a room below includes one above": {"src/base/y.h": '#include "mask/y.h"\n'},
        "indented": {"src/mask/z.h": '  #  include "model/y.h"\n'},
        "a public header includes src": {"include/attn/z.h": '#include "base/x.h"\n'},
        "a public header includes a library": {"include/attn/z.h": "#include <nlohmann/json.hpp>\n"},
        "a way around by ..": {"src/base/y.h": '#include "../mask/y.h"\n'},
        "core includes a library": {"src/mask/z.cpp": "#include <fmt/format.h>\n"},
        "a room that is not listed": {"src/garage/x.h": ""},
        "a public header that is not there": {"src/mask/z.h": '#include "attn/none.h"\n'},
    }
    for name, extra in {"nothing wrong": {}, **bad}.items():
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for path, text in {"docs/architecture.md": table, **good, **extra}.items():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_text(text)
            problems = check(root)[1]
            expected = 1 if extra else 0
            if len(problems) != expected:
                raise SystemExit(f"self-test '{name}': {len(problems)} problems, "
                                 f"expected {expected}: {problems}")
    print(f"self-test: {len(bad)} bad trees found, the good one passed")


def main():
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        return 0
    files, problems = check(Path(sys.argv[1]).resolve())
    print(*problems, sep="\n")
    print(f"{files} files, {len(problems)} problems")
    return 1 if problems or files == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
