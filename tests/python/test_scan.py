"""attn.selective_scan, attn.causal_convolution and attn.wkv4 against plain NumPy."""

import attn
import numpy as np
import pytest

RNG = np.random.default_rng(3)
B, L, C, N = 2, 13, 6, 4


def made(*shape, low=-1.0, high=1.0):
    return RNG.uniform(low, high, shape)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("groups", [1, 3])
def test_selective_scan(groups):
    u, delta, z = made(B, L, C), made(B, L, C), made(B, L, C)
    a, b, c = made(N, C, low=-2, high=0), made(B, L, groups, N), made(B, L, groups, N)
    d, bias, state = made(C), made(C), made(B, N, C)
    step = np.log1p(np.exp(delta + bias))
    h, expected = state, np.empty_like(u)
    wide_b, wide_c = (np.repeat(x, C // groups, axis=2) for x in (b, c))
    for t in range(L):
        s = step[:, t, None]
        h = np.exp(s * a) * h + s * u[:, t, None] * wide_b[:, t].swapaxes(1, 2)
        y = (wide_c[:, t].swapaxes(1, 2) * h).sum(1) + d * u[:, t]
        expected[:, t] = y * z[:, t] * sigmoid(z[:, t])
    out, last = attn.selective_scan(u, delta, a, b, c, d, z, bias, state, softplus=True)
    np.testing.assert_allclose(out, expected, atol=1e-13)
    np.testing.assert_allclose(last, h, atol=1e-13)
    # In two parts.
    first, between = attn.selective_scan(u[:, :5], delta[:, :5], a, b[:, :5], c[:, :5], d, z[:, :5],
                                         bias, state, softplus=True)
    second, end = attn.selective_scan(u[:, 5:], delta[:, 5:], a, b[:, 5:], c[:, 5:], d, z[:, 5:],
                                      bias, between, softplus=True)
    np.testing.assert_array_equal(np.concatenate([first, second], 1), out)
    np.testing.assert_array_equal(end, last)
    if groups == 1:
        same, _ = attn.selective_scan(u, delta, a, b[:, :, 0], c[:, :, 0], d, z, bias, state,
                                      softplus=True)
        np.testing.assert_array_equal(same, out)


def test_causal_convolution():
    x, weight, bias, state = made(B, L, C), made(4, C), made(C), made(B, 3, C)
    whole = np.concatenate([state, x], 1)
    sums = bias + sum(weight[i] * whole[:, i:i + L] for i in range(4))
    out, last = attn.causal_convolution(x, weight, bias, state, silu=True)
    np.testing.assert_allclose(out, sums * sigmoid(sums), atol=1e-14)
    np.testing.assert_array_equal(last, whole[:, -3:])


def test_wkv4():
    k, v, decay, bonus = made(B, L, C), made(B, L, C), -made(C, low=0, high=2), made(C)
    p = q = np.zeros((B, C))
    expected = np.empty_like(k)
    for t in range(L):
        own = np.exp(bonus + k[:, t])
        expected[:, t] = (p + own * v[:, t]) / (q + own)
        p = np.exp(decay) * p + np.exp(k[:, t]) * v[:, t]
        q = np.exp(decay) * q + np.exp(k[:, t])
    out, state = attn.wkv4(k, v, decay, bonus)
    np.testing.assert_allclose(out, expected, atol=1e-13)
    scale = np.exp(state[:, 2])
    np.testing.assert_allclose(state[:, 0] * scale, p, atol=1e-13)
    np.testing.assert_allclose(state[:, 1] * scale, q, atol=1e-13)


def test_offsets_are_sequences():
    k, v = (made(1, L, C).astype(np.float32) for _ in range(2))
    decay, bonus = (made(C, low=-2, high=-1).astype(np.float32) for _ in range(2))
    out, state = attn.wkv4(k, v, decay, bonus, offsets=[0, 4, L])
    assert out.dtype == np.float32 and state.shape == (2, 3, C)
    alone, last = attn.wkv4(k[:, 4:], v[:, 4:], decay, bonus)
    np.testing.assert_array_equal(out[:, 4:], alone)
    np.testing.assert_array_equal(state[1:], last)


def test_mistakes_are_named():
    k, decay = made(B, L, C), made(C)
    with pytest.raises(ValueError, match=r"\[wkv4\] v has shape \[2, 1, 12, 6\]"):
        attn.wkv4(k, k[:, 1:], decay, decay)
    with pytest.raises(ValueError, match="k has 2 dimensions, must have 3"):
        attn.wkv4(k[0], k, decay, decay)
    with pytest.raises(ValueError, match="b must have 3 dimensions"):
        attn.selective_scan(k, k, made(N, C), made(B, N), made(B, L, N))
    with pytest.raises(TypeError, match="x is a list"):
        attn.causal_convolution([1.0], made(4, C))
