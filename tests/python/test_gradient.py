"""attn.backward and dropout, against finite differences and the double-precision oracle."""

import attn
import numpy as np
import pytest
from slopes import expect_slopes


def problem(dtype=np.float64, lq=9, lk=13, d=5, dv=7, seed=0):
    """q, k, v, d_out with 4 query heads over 2."""
    rng = np.random.default_rng(seed)
    shapes = (2, 4, lq, d), (2, 2, lk, d), (2, 2, lk, dv), (2, 4, lq, dv)
    return [rng.standard_normal(s).astype(dtype) for s in shapes]


def full_score(q, k, dtype=np.float64):
    rng = np.random.default_rng(1)
    return {
        "bias": rng.standard_normal((4, 1, k.shape[2])).astype(dtype),
        "alibi": np.array([0.5, 0.25, 0.125, 0.0625]),
        "t5": rng.standard_normal((8, 4)).astype(np.float32),
        "sinks": np.array([0.5, -1.0, 0.25, 2.0]),
        "soft_cap": 3.0,
    }


def score_of(parts):
    t5 = attn.T5Bias(parts["t5"], max_distance=10)
    return attn.Score(**{**parts, "t5": t5})


OPTIONS = {
    "plain": {},
    "causal": {"mask": attn.Mask.causal(), "query_start": 4},
    "window": {"mask": attn.Mask.causal() & attn.Mask.window(3, 0)},
    "scale": {"scale": 0.3},
    "dropout": {"dropout": attn.Dropout(0.3, seed=5)},
    "empty rows": {"mask": attn.Mask.causal(), "query_start": -3},
}
ALL = ["q", "k", "v", "bias", "alibi_slopes", "t5", "sinks"]


@pytest.mark.parametrize("options", OPTIONS)
def test_finite_differences(options):
    q, k, v, d_out = problem()
    call = OPTIONS[options]
    out, lse = attn.attention(q, k, v, return_lse=True, **call)
    g = attn.backward(q, k, v, out, lse, d_out, **call)
    loss = lambda: (attn.attention(q, k, v, **call) * d_out).sum()  # noqa: E731
    expect_slopes(loss, {"q": q, "k": k, "v": v}, g, 1e-8, places=40)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_against_the_oracle(dtype, options):
    q, k, v, d_out = problem(dtype)
    rng = np.random.default_rng(3)
    d_lse, d_entropy = rng.standard_normal((2, 2, 4, 9)).astype(dtype)
    call = dict(OPTIONS[options])
    scale = call.pop("scale", None)
    parts = {**full_score(q, k, dtype), "scale": scale}
    call["score"] = score_of(parts)
    out, seen = attn.observe(q, k, v, lse=True, entropy=True, **call)
    # Where nothing is seen the log-sum-exp is -inf whatever the inputs: no gradient.
    given = {"d_lse": d_lse, "d_entropy": d_entropy, "wrt": ALL, **call}
    ours = attn.backward(q, k, v, out, seen.lse, d_out, entropy=seen.entropy, **given)
    oracle = attn.reference.backward(q, k, v, d_out, **given)
    for name in ALL:
        a, b = getattr(ours, name), getattr(oracle, name)
        assert a.dtype == dtype and b.dtype == np.float64 and a.shape == b.shape
        bound = (1e-12 if dtype == np.float64 else 4e-6) * max(1, abs(b).max())
        assert abs(a - b).max() <= bound, name
    assert ours.bias.shape == (4, 1, 13) and ours.t5.shape == (8, 4) and ours.sinks.shape == (4,)


def test_only_what_is_asked():
    q, k, v, d_out = problem()
    out, lse = attn.attention(q, k, v, return_lse=True)
    all_three = attn.backward(q, k, v, out, lse, d_out)
    only = attn.backward(q, k, v, out, lse, d_out, wrt=("k",))
    assert repr(only) == "Gradients(k)" and only.q is None and only.bias is None
    np.testing.assert_array_equal(only.k, all_three.k)


def test_same_bits_for_any_threads():
    q, k, v, d_out = problem(np.float32, lq=150, lk=170, d=16, dv=16)
    out, lse = attn.attention(q, k, v, return_lse=True)
    one = attn.backward(q, k, v, out, lse, d_out, threads=1)
    two = attn.backward(q, k, v, out, lse, d_out, threads=2)
    for name in ("q", "k", "v"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_mistakes():
    q, k, v, d_out = problem()
    out, lse = attn.attention(q, k, v, return_lse=True)
    for says, call in {
        "wrt holds 'o', must be among": {"wrt": ["o"]},
        "bias is asked, but the score has none": {"wrt": ["bias"]},
        "sinks is asked, but the score has none": {"wrt": ["sinks"]},
        "entropy": {"d_entropy": lse},
    }.items():
        with pytest.raises(ValueError, match=says):
            attn.backward(q, k, v, out, lse, d_out, **call)
    with pytest.raises(ValueError, match="the gradient of out"):
        attn.backward(q, k, v, out, lse, d_out[:, :, 1:])
    half = [x.astype(np.float16) for x in (q, k, v)]
    with pytest.raises(ValueError, match="q is float16, must be float32 or float64"):
        attn.backward(*half, out, lse, d_out)


def test_dropout_drops_p_and_scales_the_rest():
    q, k, v, _ = problem(lq=200, lk=300)
    plain = attn.reference.weights(q, k)
    weights = attn.reference.weights(q, k, dropout=attn.Dropout(0.25, seed=1))
    dropped = weights == 0
    n = dropped.size
    assert abs(dropped.mean() - 0.25) < 5 * (0.25 * 0.75 / n) ** 0.5
    np.testing.assert_allclose(weights[~dropped], plain[~dropped] / 0.75, rtol=1e-12)
    group = v.repeat(2, axis=1)
    out, lse = attn.attention(q, k, v, dropout=attn.Dropout(0.25, seed=1), return_lse=True)
    np.testing.assert_allclose(out, weights @ group, atol=1e-12)
    np.testing.assert_array_equal(lse, attn.attention(q, k, v, return_lse=True)[1])


def test_dropout_depends_on_seed_offset_and_stream():
    q, k, v, _ = problem(np.float32)
    run = lambda **x: attn.attention(q, k, v, dropout=attn.Dropout(0.5, **x))  # noqa: E731
    np.testing.assert_array_equal(run(seed=3), run(seed=3))
    assert (run(seed=3) != run(seed=4)).any() and (run(seed=3) != run(seed=3, offset=9)).any()
    # Sequence 1 alone, given the stream that it had in the batch.
    alone = attn.attention(
        q[1:], k[1:], v[1:], dropout=attn.Dropout(0.5, seed=3, streams=[1])
    )
    np.testing.assert_array_equal(alone, run(seed=3)[1:])
    np.testing.assert_array_equal(
        attn.attention(q, k, v, dropout=attn.Dropout(0.0)), attn.attention(q, k, v)
    )
    with pytest.raises(ValueError, match="dropout"):
        run(streams=[1, 2, 3])
    with pytest.raises(ValueError, match="1.5"):
        attn.attention(q, k, v, dropout=attn.Dropout(1.5))
