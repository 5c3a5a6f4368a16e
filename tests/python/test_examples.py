"""Each example in examples/python runs and says what it should."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def test_tour(tmp_path):
    page = tmp_path / "page.html"
    done = subprocess.run(
        [sys.executable, ROOT / "examples/python/tour.py", page], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "out (1, 8, 9, 32) lse (1, 8, 9) largest error" in done.stdout
    assert "gradients (1, 8, 9, 32) (1, 2, 9, 32) (1, 2, 9, 32)" in done.stdout
    assert done.stdout.splitlines()[-1] == str(page)
    assert page.stat().st_size > 10000


def test_every_example_is_tested():
    names = {path.stem for path in (ROOT / "examples/python").glob("*.py")}
    assert names == {"tour"}
