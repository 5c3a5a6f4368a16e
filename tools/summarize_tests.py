#!/usr/bin/env python3
"""Counts test results of CTest and pytest (JUnit files); exit 1 when anything failed.

The last line is exactly "N passed, N failed, N skipped". A suite that left no results has failed,
and so has a run in which nothing passed.
"""

import argparse
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

MOST_LINES = 40  # of a failed test's output


def reason_of(case, skipped):
    """Why a test was skipped: GoogleTest writes it after "Skipped", scripts on their last line,
    pytest in a message or, for whole files, in the text."""
    lines = [line.strip() for line in (case.findtext("system-out") or "").splitlines() if line.strip()]
    for before, line in zip(lines, lines[1:]):
        if before.endswith("Skipped"):
            return line
    message = skipped.get("message", "") if skipped is not None else ""
    if lines and message.startswith("SKIP_"):
        return lines[-1]
    _, mark, why = ((skipped.text if skipped is not None else "") or "").partition("Skipped: ")
    return why.rstrip("')\n") if mark else message or "no reason given"


def read(suite, path):
    """Yields (suite, name, "passed" | "failed" | "skipped", text) of one JUnit file."""
    try:
        cases = list(ElementTree.parse(path).getroot().iter("testcase"))
    except (OSError, ElementTree.ParseError) as error:
        yield suite, "results", "failed", f"no results in {path}: {error}"
        return
    if not cases:
        yield suite, "results", "failed", f"no tests in {path}"
    for case in cases:
        name = case.get("name", "?")
        classname = case.get("classname", "")
        if classname and classname != name:
            name = f"{classname}.{name}"
        skipped = case.find("skipped")
        broken = case.find("failure")
        if broken is None:
            broken = case.find("error")
        if broken is not None:
            text = broken.text or case.findtext("system-out") or broken.get("message", "")
            yield suite, name, "failed", text
        elif case.get("status") == "notrun" and skipped is not None and skipped.get(
                "message", "").startswith("Unable"):
            yield suite, name, "failed", skipped.get("message")
        elif skipped is not None:
            yield suite, name, "skipped", reason_of(case, skipped)
        elif case.get("status") in (None, "run"):
            yield suite, name, "passed", ""
        else:
            yield suite, name, "failed", f"status {case.get('status')}"


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--junit", action="append", default=[], metavar="SUITE=FILE")
    parser.add_argument("--failed", action="append", default=[], metavar="WHAT")
    parser.add_argument("--skipped", action="append", default=[], metavar="WHAT: WHY")
    parser.add_argument("--minutes", nargs="*", default=[], metavar="WHAT=SECONDS")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    results = [("make", what, "failed", "see above") for what in arguments.failed]
    for what in arguments.skipped:
        name, _, why = what.partition(": ")
        results.append(("make", name, "skipped", why))
    for item in arguments.junit:
        suite, _, path = item.partition("=")
        results.extend(read(suite, Path(path)))

    failed = [r for r in results if r[2] == "failed"]
    for suite, name, _, text in failed:
        print(f"\nFAILED {suite}: {name}")
        for line in (text or "").strip().splitlines()[-MOST_LINES:]:
            print("  " + line)

    reasons = {}
    for suite, name, state, why in results:
        if state == "skipped":
            reasons.setdefault((suite, why), []).append(name)
    for (suite, why), names in reasons.items():
        some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        print(f"SKIPPED {suite}: {some}: {why}")

    for suite in dict.fromkeys(r[0] for r in results):
        count = Counter(r[2] for r in results if r[0] == suite)
        print(f"{suite}: {count['passed']} passed, {count['failed']} failed, "
              f"{count['skipped']} skipped")
    if arguments.minutes:
        parts = [item.partition("=") for item in arguments.minutes]
        print(", ".join(f"{what} {int(seconds) / 60:.1f} minutes" for what, _, seconds in parts))

    count = Counter(r[2] for r in results)
    print(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    return 1 if count["failed"] or not count["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
