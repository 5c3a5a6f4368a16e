"""Runs the Python of the README that needs PyTorch and Transformers."""

import subprocess
import sys

import pytest
from test_readme import python_blocks

pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("transformers", reason="Transformers is not installed")


def test_readme_torch(tmp_path):
    blocks = [block for block in python_blocks() if "attn.torch" in block]
    assert blocks
    for block in blocks:
        done = subprocess.run(
            [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout.replace(" ", "").startswith("tensor([[1,2,3,")
    assert done.stdout.endswith("torch.Size([1, 4, 50])\n")
