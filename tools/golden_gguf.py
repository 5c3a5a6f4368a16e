"""Writes tests/data/golden.gguf and golden_gguf.txt: a file as gguf-py writes it, and the numbers that
gguf-py reads from its tensors.

    pip install gguf && python tools/golden_gguf.py

The blocks are random bytes with finite scales, so that every bit of every type matters. One record a
line: name, number of values, values, which are float32. Made with gguf 0.19.0, NumPy 2.4.
"""

import pathlib

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as Type, GGUFValueType as Kind

OUT = pathlib.Path(__file__).parent.parent / "tests" / "data"
# Where a block keeps its float16 numbers.
SCALES = {Type.Q8_0: [0], Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q6_K: [208]}
random = np.random.default_rng(1)
records = []


def halves(count):
    """float16 of any sign and exponent, subnormal ones too, none infinite or NaN."""
    bits = random.integers(0, 0x7C00, count) | random.integers(0, 2, count) << 15
    return bits.astype("<u2")


def stored(kind, rows, width):
    if kind == Type.F32:
        return random.standard_normal((rows, width)).astype("<f4").view(np.uint8)
    if kind == Type.F16:
        return halves(rows * width).view(np.uint8).reshape(rows, -1)
    elements, size = GGML_QUANT_SIZES[kind]
    data = random.integers(0, 256, (rows * width // elements, size)).astype(np.uint8)
    if kind == Type.BF16:
        data[:, 1] &= 0xBF  # no infinity, no NaN
    for at in SCALES.get(kind, []):
        data[:, at : at + 2] = halves(len(data)).view(np.uint8).reshape(-1, 2)
    return data.reshape(rows, -1)


writer = gguf.GGUFWriter(OUT / "golden.gguf", "golden")
for kind, value in {
    Kind.UINT8: 200, Kind.INT8: -100, Kind.UINT16: 60000, Kind.INT16: -30000, Kind.UINT32: 4000000000,
    Kind.INT32: -2000000000, Kind.UINT64: 2**63 - 1, Kind.INT64: -(2**63), Kind.FLOAT32: 0.1,
    Kind.FLOAT64: 0.1, Kind.BOOL: True, Kind.STRING: "naïve",
}.items():
    writer.add_key_value("golden." + kind.name.lower(), value, kind)
writer.add_token_list(["<s>", "\u2581the", b"\xff", ""])
writer.add_token_scores([-1.5, 0.0, 2.0, 1e30])
writer.add_token_types([3, 1, 6, 1])
writer.add_token_merges(["t h", "th e"])
writer.add_array("golden.booleans", [True, False, True])
for kind in [Type.F32, Type.F16, Type.BF16, *SCALES]:
    rows, width = (2, 256) if kind == Type.Q6_K else (3, 64)
    data = stored(kind, rows, width)
    if kind in (Type.F32, Type.F16):  # gguf-py knows these by their NumPy types
        values = data.view("<f4" if kind == Type.F32 else "<f2")
        writer.add_tensor(kind.name, values)
    else:
        writer.add_tensor(kind.name, data, raw_dtype=kind)
        values = gguf.quants.dequantize(data, kind)
    values = values.astype(np.float32).flatten().tolist()
    records.append(" ".join([kind.name, str(len(values))] + ["%.9g" % v for v in values]))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
(OUT / "golden_gguf.txt").write_text("\n".join(records) + "\n")
