#!/usr/bin/env python3
"""Checks an installed attn::core: header and library under 5 MB, Highway and OpenMP its only needs."""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

LIMIT = 5_000_000
ALLOWED_TARGETS = {"OpenMP::OpenMP_CXX", "hwy::hwy"}
ALLOWED_LIBRARIES = re.compile(r"lib(hwy|gomp|omp|stdc\+\+|c\+\+|m|gcc_s|c|pthread)\.so|ld-linux")


def stripped_size(library):
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / library.name
        shutil.copy(library, copy)
        subprocess.run(["strip", "-g", copy], check=True)
        return copy.stat().st_size


def main():
    prefix = Path(sys.argv[1])
    headers = list(prefix.rglob("include/attn/*.h"))
    libraries = [p for p in prefix.rglob("libattn_core.*") if not p.is_symlink()]
    if not headers or len(libraries) != 1:
        print(f"expected headers and one library, found {len(headers)} and {libraries}")
        return 1
    size = sum(p.stat().st_size for p in headers) + stripped_size(libraries[0])
    print(f"{len(headers)} headers and {libraries[0].name}: {size / 1e6:.2f} MB, limit {LIMIT / 1e6}")
    problems = []
    if size >= LIMIT:
        problems.append("too large")

    for header in headers:
        for name in re.findall(r'#include "attn/([^"]+)"', header.read_text()):
            if not (header.parent / name).exists():
                problems.append(f"{header.name} includes attn/{name}, which is not in core")

    exported = "".join(p.read_text() for p in prefix.rglob("attnCoreTargets*.cmake"))
    links = re.findall(r'INTERFACE_LINK_LIBRARIES "([^"]*)"', exported)
    for item in filter(None, ";".join(links).split(";")):
        target = re.sub(r"^\\?\$<LINK_ONLY:(.*)>$", r"\1", item)
        if target not in ALLOWED_TARGETS:
            problems.append(f"links {target}")
    if libraries[0].suffix == ".a":
        if not links:
            problems.append("a static library without link targets: its needs got lost")
    else:
        dynamic = subprocess.run(["readelf", "-d", libraries[0]], check=True, capture_output=True,
                                 text=True).stdout
        for name in re.findall(r"NEEDED.*\[(.*)\]", dynamic):
            if not ALLOWED_LIBRARIES.match(name):
                problems.append(f"needs {name}")
    print(*problems, sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
