"""Runs the Python of the README."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def python_blocks():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_readme(tmp_path):
    blocks = [block for block in python_blocks() if "attn.torch" not in block]
    assert blocks
    code = "\n".join(blocks) + "\nassert out.shape == q.shape and np.isfinite(out).all()\n"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
    assert "<html" in (tmp_path / "page.html").read_text(encoding="utf-8")
