"""Models with random weights, written as Hugging Face folders have them."""

import json
import struct

import numpy as np


def write_weights(path, shapes):
    """model.safetensors of these shapes: matrices small, vectors (norms) about 1."""
    rng = np.random.default_rng(5)
    header, data = {}, b""
    for name, shape in shapes.items():
        values = rng.standard_normal(shape)
        values = values / 7 if len(shape) > 1 else 1 + values / 10
        begin = len(data)
        data += values.astype(np.float32).tobytes()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
