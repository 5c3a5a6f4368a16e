"""attn.additive, attn.luong and attn.luong_local: NumPy's formulas, the oracle, finite differences."""

import attn
import numpy as np
import pytest
from slopes import expect_slopes


def problem(dtype=np.float64, b=2, h=2, lq=5, lk=9, d=4, dv=3):
    rng = np.random.default_rng(0)
    shapes = (b, h, lq, d), (b, h, lk, d), (b, h, lk, dv), (h, d)
    return [rng.standard_normal(s).astype(dtype) for s in shapes]


def softmax(s):
    e = np.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def bahdanau(q, k, v_a):
    return (v_a[..., None, None, :] * np.tanh(q[..., :, None, :] + k[..., None, :, :])).sum(-1)


@pytest.mark.parametrize("dtype, bound", [(np.float64, 1e-13), (np.float32, 1e-5)])
def test_additive_is_the_formula(dtype, bound):
    q, k, v, v_a = problem(dtype)
    s = bahdanau(*(x.astype(np.float64) for x in (q, k, v_a)))
    out, lse, weights = attn.additive(q, k, v, v_a, return_lse=True, return_weights=True)
    assert out.dtype == dtype
    np.testing.assert_allclose(weights, softmax(s), atol=bound)
    np.testing.assert_allclose(out, softmax(s) @ v, atol=bound)
    np.testing.assert_allclose(lse, np.log(np.exp(s).sum(-1)), atol=10 * bound)
    one = attn.additive(q, k, v, v_a[0])
    np.testing.assert_allclose(one[:, 0], out[:, 0], atol=0)


def test_additive_against_the_oracle():
    q, k, v, v_a = problem()
    options = {"mask": attn.Mask.causal() & attn.Mask.padding([9, 4]), "query_start": -1}
    options["score"] = attn.Score(sinks=np.array([0.5, -1.0]))
    options["dropout"] = attn.Dropout(0.3, seed=2)
    found = attn.additive(q, k, v, v_a, return_lse=True, return_weights=True, **options)
    truth = attn.reference.additive(q, k, v, v_a, return_lse=True, return_weights=True, **options)
    for a, b in zip(found, truth):
        np.testing.assert_allclose(a, b, atol=1e-13)
    assert not found[0][:, :, 0].any()  # sees nothing


def test_prepared_keys_give_the_same_bits():
    q, k, v, v_a = problem(np.float32, lk=300)
    keys = attn.AdditiveKeys(k)
    assert repr(keys) == "AdditiveKeys([2, 2, 300, 4])"
    whole = attn.additive(q, k, v, v_a)
    for i in range(q.shape[2]):
        np.testing.assert_array_equal(attn.additive(q[:, :, i : i + 1], keys, v, v_a)[:, :, 0], whole[:, :, i])


def test_additive_gradients():
    q, k, v, v_a = problem()
    rng = np.random.default_rng(3)
    d_out, d_lse = rng.standard_normal((2, 2, 5, 3)), rng.standard_normal((2, 2, 5))
    mask = attn.Mask.causal()

    def loss():
        out, lse = attn.additive(q, k, v, v_a, mask=mask, query_start=2, return_lse=True)
        return (out * d_out).sum() + (lse * d_lse).sum()

    out, lse = attn.additive(q, k, v, v_a, mask=mask, query_start=2, return_lse=True)
    g = attn.additive_backward(q, k, v, v_a, out, lse, d_out, d_lse=d_lse, mask=mask, query_start=2)
    expect_slopes(loss, {"q": q, "k": k, "v": v, "v_a": v_a}, g, 1e-7, places=12)
    assert g.w is None


def test_luong_is_its_formulas():
    q, k, v, v_a = problem()
    rng = np.random.default_rng(4)
    w, w_concat = rng.standard_normal((4, 4)), rng.standard_normal((2, 4, 8))
    dot = q @ k.swapaxes(-1, -2)
    general = q @ w @ k.swapaxes(-1, -2)
    hidden_q, hidden_k = (x @ m.swapaxes(-1, -2) for x, m in ((q, w_concat[:, :, :4]), (k, w_concat[:, :, 4:])))
    concat = bahdanau(hidden_q, hidden_k, v_a)
    for scores, given in ((dot, {}), (general, {"w": w}), (concat, {"w": w_concat, "v_a": v_a})):
        out, weights = attn.luong(q, k, v, return_weights=True, **given)
        np.testing.assert_allclose(weights, softmax(scores), atol=1e-13)
        np.testing.assert_allclose(out, softmax(scores) @ v, atol=1e-13)
        np.testing.assert_allclose(attn.reference.luong(q, k, v, **given), out, atol=1e-13)
        out, lse = attn.luong(q, k, v, return_lse=True, **given)
        g = attn.luong_backward(q, k, v, out, lse, np.ones_like(out), **given)
        expect_slopes(
            lambda given=given: attn.luong(q, k, v, **given).sum(),
            {"q": q, "k": k, "v": v, **given},
            g,
            1e-7,
            places=12,
        )


def test_luong_local():
    q, k, v, _ = problem()
    rng = np.random.default_rng(5)
    w_p, v_p, w = rng.standard_normal((3, 4)), rng.standard_normal(3), rng.standard_normal((4, 4))
    given = {"window": 2.5, "lengths": [9, 6], "w": w}
    out, places, weights = attn.luong_local(q, k, v, w_p, v_p, return_positions=True, return_weights=True, **given)
    length = np.array([9, 6])[:, None, None]
    p = length / (1 + np.exp(-np.tanh(q @ w_p.T) @ v_p))
    np.testing.assert_allclose(places, p, atol=1e-13)
    distance = np.arange(9) - p[..., None]
    seen = (np.abs(distance) <= 2.5) & (np.arange(9) < length[..., None])
    expected = softmax(np.where(seen, q @ w @ k.swapaxes(-1, -2), -np.inf))
    expected = expected * np.exp(-(distance**2) / (2 * 1.25**2))
    np.testing.assert_allclose(weights, expected, atol=1e-13)
    np.testing.assert_allclose(out, expected @ v, atol=1e-13)
    np.testing.assert_allclose(attn.reference.luong_local(q, k, v, w_p, v_p, **given), out, atol=1e-13)
    g = attn.luong_local_backward(q, k, v, w_p, v_p, np.ones_like(out), **given)
    expect_slopes(
        lambda: attn.luong_local(q, k, v, w_p, v_p, **given).sum(),
        {"q": q, "k": k, "v": v, "w_p": w_p, "v_p": v_p, "w": w},
        g,
        1e-7,
        places=12,
    )


def test_what_does_not_fit_is_refused():
    q, k, v, v_a = problem()
    with pytest.raises(ValueError, match=r"\[additive\] q has width 3, k has 4"):
        attn.additive(q[..., :3], k, v, v_a)
    with pytest.raises(ValueError, match=r"\[additive\] a scale of 0.5 is given: there is none"):
        attn.additive(q, k, v, v_a, score=attn.Score(scale=0.5))
    with pytest.raises(ValueError, match=r"\[luong\] v_a is given without w"):
        attn.luong(q, k, v, v_a=v_a)
    with pytest.raises(TypeError, match=r"\[additive\] k is a str"):
        attn.additive(q, "keys", v, v_a)
