"""The attention that recurrences imply: a value that is 1 at one token alone puts its weight out."""

import attn
import numpy as np
import pytest

L, D = 9, 5
RNG = np.random.default_rng(2)
EYE = np.broadcast_to(np.eye(L), (1, 2, L, L)).copy()  # values: token j has the 1 in column j


def normal(*shape):
    return RNG.standard_normal(shape)


def weights(a):
    """|a_ij| [heads, L, L] by the sums of their rows."""
    a = abs(a)
    return a / a.sum(-1, keepdims=True)


@pytest.mark.parametrize("parts", [
    {}, {"log_decay": -abs(normal(1, 2, L, D)), "bonus": normal(2, D)},
    {"log_decay": -abs(normal(1, 2, 1, 1)), "beta": abs(normal(1, 2, L, 1))}])
def test_recurrent(parts):
    q, k = normal(1, 2, L, D), normal(1, 2, L, D)
    rows = attn.implied_recurrent(q, k, EYE, **parts)
    assert rows.shape == (2, L, L) and rows.dtype == np.float64
    np.testing.assert_allclose(rows, weights(attn.recurrent(q, k, EYE, **parts)[0]), atol=1e-12)
    np.testing.assert_array_equal(
        attn.implied_recurrent(q, k, EYE, **parts, queries=[7, 2]), rows[:, [7, 2]])


def test_delta_rule():
    q, k = normal(1, 2, L, D), normal(1, 2, L, D)
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    rows = attn.implied_recurrent(q, k, EYE, rule="delta")
    out = attn.recurrent(q, k, EYE, rule="delta")[0]
    np.testing.assert_allclose(rows, weights(out), atol=1e-12)


def test_mamba2():
    x = {"dt": normal(1, 2, L), "a": -abs(normal(2)), "b": normal(1, 1, L, D), "c": normal(1, 1, L, D),
         "dt_bias": normal(2)}
    rows = attn.implied_mamba2(EYE, **x)
    np.testing.assert_allclose(rows, weights(attn.mamba2(EYE, **x)[0]), atol=1e-12)


def sums(run, channels):
    """|a_ij| over channels, from one run a token."""
    a = np.zeros((1, L, L))
    for j in range(L):
        one = np.zeros((1, L, channels))
        one[:, j] = 1
        a[0, :, j] = abs(run(one)[0]).sum(-1)
    return weights(a)


def test_selective_scan():
    x = {"delta": normal(1, L, 6), "a": -abs(normal(4, 6)), "b": normal(1, L, 4), "c": normal(1, L, 4),
         "delta_bias": normal(6)}
    rows = attn.implied_selective_scan(normal(1, L, 6), **x, softplus=True)
    expected = sums(lambda u: attn.selective_scan(u, **x, softplus=True), 6)
    np.testing.assert_allclose(rows, expected, atol=1e-12)


def test_wkv4():
    k, decay, bonus = normal(1, L, 3), -abs(normal(3)), normal(3)
    rows = attn.implied_wkv4(k, normal(1, L, 3), decay, bonus)
    np.testing.assert_allclose(rows, sums(lambda v: attn.wkv4(k, v, decay, bonus), 3), atol=1e-12)


def test_errors():
    q = normal(1, 2, L, D)
    with pytest.raises(ValueError, match="query is 9, there are 9"):
        attn.implied_recurrent(q, q, EYE, queries=[L])
    with pytest.raises(ValueError, match="several texts"):
        attn.implied_recurrent(np.repeat(q, 2, 0), np.repeat(q, 2, 0), np.repeat(EYE, 2, 0))
