#!/usr/bin/env python3
"""Checks tools/summarize_tests.py against results whose counts are known."""

import subprocess
import sys
import tempfile
from pathlib import Path

TOOL = Path(__file__).resolve().parents[2] / "tools/summarize_tests.py"

CTEST = """<testsuite tests="4">
<testcase name="a.one" classname="a.one" time="0.1" status="run"><system-out>ok</system-out></testcase>
<testcase name="a.two" classname="a.two" time="0.1" status="run"><system-out>ok</system-out></testcase>
<testcase name="a.skips" classname="a.skips" time="0" status="notrun">
<skipped message="SKIP_REGULAR_EXPRESSION_MATCHED"/>
<system-out>x.cpp:12: Skipped
no model here
[  SKIPPED ] a.skips</system-out></testcase>{extra}</testsuite>"""
FAILURE = """<testcase name="a.bad" classname="a.bad" time="0" status="fail">
<failure message="Failed"/><system-out>expected 1, got 2</system-out></testcase>"""
MISSING = """<testcase name="a.gone" classname="a.gone" time="0" status="notrun">
<skipped message="Unable to find executable: /a/gone"/></testcase>"""
PYTEST = """<testsuites><testsuite><testcase classname="p" name="t1"/>
<testcase classname="p" name="t2"><skipped message="no torch"/></testcase>
<testcase classname="" name="p2"><skipped message="collection skipped">('/p2.py', 9, 'Skipped: no module')</skipped></testcase>
</testsuite></testsuites>"""


def run(*arguments):
    done = subprocess.run([sys.executable, TOOL, *arguments], capture_output=True, text=True)
    return done.returncode, done.stdout


def check(what, result, code, last, *contains):
    got_code, out = result
    lines = out.splitlines()
    if got_code != code or not lines or lines[-1] != last or any(c not in out for c in contains):
        raise SystemExit(f"{what}: exit {got_code}, expected {code}, '{last}', {contains}:\n{out}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        def suite(name, text):
            path = Path(folder) / f"{name}.xml"
            path.write_text(text)
            return f"{name}={path}"

        good = suite("good", CTEST.format(extra=""))
        python = suite("python", PYTEST)
        check("good", run("--junit", good, "--junit", python), 0,
              "3 passed, 0 failed, 3 skipped", "no model here", "no torch", "p2: no module\n")
        check("failure", run("--junit", suite("bad", CTEST.format(extra=FAILURE))), 1,
              "2 passed, 1 failed, 1 skipped", "expected 1, got 2")
        check("no executable", run("--junit", suite("gone", CTEST.format(extra=MISSING))), 1,
              "2 passed, 1 failed, 1 skipped", "Unable to find")
        check("no results", run("--junit", good, "--junit", f"none={folder}/none.xml"), 1,
              "2 passed, 1 failed, 1 skipped")
        check("empty", run("--junit", suite("empty", "<testsuite/>")), 1,
              "0 passed, 1 failed, 0 skipped")
        check("build failed", run("--junit", good, "--failed", "sanitize build"), 1,
              "2 passed, 1 failed, 1 skipped", "sanitize build")
        check("nothing", run(), 1, "0 passed, 0 failed, 0 skipped")
    print("7 summaries are right")


if __name__ == "__main__":
    main()
