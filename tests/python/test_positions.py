"""attn.rope and its neighbours against their formulas in NumPy."""

import attn
import numpy as np
import pytest


def rotated(x, positions, base=10000.0, interleaved=False):
    d = x.shape[-1]
    angle = positions[:, None] * base ** (-np.arange(0, d, 2) / d)
    cos, sin = np.cos(angle), np.sin(angle)
    a, b = (x[..., ::2], x[..., 1::2]) if interleaved else (x[..., : d // 2], x[..., d // 2 :])
    first, second = a * cos - b * sin, a * sin + b * cos
    if interleaved:
        return np.stack([first, second], -1).reshape(x.shape)
    return np.concatenate([first, second], -1)


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rope(layout, dtype):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 11, 16)).astype(dtype)
    given = x.copy()
    positions = np.arange(5, 16)
    out = attn.rope(x, positions, layout=layout)
    assert out.dtype == dtype
    np.testing.assert_array_equal(x, given)  # the caller's array stays
    expected = rotated(x.astype(np.float64), positions, interleaved=layout == "interleaved")
    tolerance = 2e-6 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(out, expected, atol=tolerance)
    np.testing.assert_allclose(attn.rope(out, positions, layout=layout, inverse=True), x, atol=tolerance)
    view = np.ascontiguousarray(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
    np.testing.assert_array_equal(attn.rope(view, list(positions), layout=layout), out)


def test_rope_parts_and_scalings():
    x = np.random.default_rng(1).standard_normal((1, 1, 6, 16))
    half = attn.rope(x, fraction=0.5)
    np.testing.assert_array_equal(half[..., 8:], x[..., 8:])
    np.testing.assert_allclose(half[..., :8], rotated(x[..., :8], np.arange(6)), atol=1e-13)
    linear = attn.rope(x, np.arange(6) * 4, scaling=attn.RopeScaling.linear(4))
    np.testing.assert_allclose(linear, attn.rope(x), atol=1e-13)
    yarn = attn.rope(x, scaling=attn.RopeScaling.yarn(4, 4096))
    grown = np.linalg.norm(yarn) / np.linalg.norm(x)
    np.testing.assert_allclose(grown, 0.1 * np.log(4) + 1, rtol=1e-12)
    for other in (
        attn.RopeScaling.ntk(2),
        attn.RopeScaling.dynamic_ntk(2, 4),
        attn.RopeScaling.llama3(),
    ):
        out = attn.rope(x, [10, 20, 30, 40, 50, 10000], scaling=other)
        np.testing.assert_allclose(np.linalg.norm(out, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-12)
    quarter = attn.rope(x, np.arange(6) * 4, scaling=attn.RopeScaling.divided([4] * 8))
    np.testing.assert_allclose(quarter, attn.rope(x), atol=1e-13)
    still = attn.rope(x, scaling=attn.RopeScaling.divided([1.0] * 7 + [1e300]))
    np.testing.assert_allclose(still[..., [7, 15]], x[..., [7, 15]], atol=1e-13)
    np.testing.assert_array_equal(still[..., :7], attn.rope(x)[..., :7])
    with pytest.raises(ValueError, match="7"):
        attn.rope(x, scaling=attn.RopeScaling.divided([1.0] * 7))
    with pytest.raises(ValueError, match="layout"):
        attn.rope(x, layout="quarter")
    with pytest.raises(ValueError):
        attn.rope(x, [1, 2])


def test_sinusoidal():
    table = attn.sinusoidal(7, 9)
    assert table.dtype == np.float32 and table.shape == (7, 9)
    i = np.arange(9)
    angle = np.arange(7)[:, None] / 10000.0 ** ((i // 2 * 2) / 9)
    np.testing.assert_allclose(table, np.where(i % 2 == 0, np.sin(angle), np.cos(angle)), atol=1e-6)
    np.testing.assert_array_equal(attn.sinusoidal([3, 5], 9), table[[3, 5]])
    with pytest.raises(ValueError):
        attn.sinusoidal(3, 0)


def test_slopes_and_buckets():
    np.testing.assert_allclose(attn.alibi_slopes(8), 2.0 ** -np.arange(1, 9))
    assert len(attn.alibi_slopes(12)) == 12
    assert attn.t5_bucket(0) == 0
    assert attn.t5_bucket(1) == 17
    assert attn.t5_bucket(-1000) == 15
    table = np.random.default_rng(2).standard_normal((32, 2)).astype(np.float32)
    q, k, v = (np.random.default_rng(i).standard_normal((1, 2, 20, 8)).astype(np.float32) for i in range(3))
    out = attn.attention(q, k, v, score=attn.Score(t5=attn.T5Bias(table)))
    buckets = np.array([[attn.t5_bucket(j - i) for j in range(20)] for i in range(20)])
    bias = np.ascontiguousarray(table[buckets].transpose(2, 0, 1)[None])
    expected = attn.attention(q, k, v, score=attn.Score(bias=bias))
    np.testing.assert_allclose(out, expected, atol=2e-6)
