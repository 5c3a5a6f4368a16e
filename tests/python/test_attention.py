"""attn.attention against plain NumPy and against the double-precision oracle."""

import concurrent.futures
import copy
import math
import pickle
import threading
import time

import attn
import numpy as np
import pytest


def tensors(b=2, hq=4, hkv=2, lq=37, lk=53, d=24, dv=None, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((b, hq, lq, d)).astype(dtype)
    k = rng.standard_normal((b, hkv, lk, d)).astype(dtype)
    v = rng.standard_normal((b, hkv, lk, dv or d)).astype(dtype)
    return q, k, v


def plain(q, k, v, visible=None, scale=None, bias=None):
    """Softmax attention as a textbook writes it, in float64."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    s = q @ k.swapaxes(-1, -2) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if bias is not None:
        s = s + bias
    if visible is not None:
        s = np.where(visible, s, -np.inf)
    top = s.max(-1, keepdims=True)
    e = np.exp(s - np.where(np.isfinite(top), top, 0))
    total = e.sum(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = (np.log(total) + top)[..., 0]
    return e / np.where(total > 0, total, 1) @ v, lse


def close(a, b, dtype=np.float32):
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 if dtype == np.float32 else 1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_against_numpy_and_the_oracle(dtype):
    q, k, v = tensors(dv=40, dtype=dtype)
    out, lse = attn.attention(q, k, v, return_lse=True)
    assert type(out) is np.ndarray and type(lse) is np.ndarray
    assert out.dtype == dtype and out.shape == (2, 4, 37, 40)
    assert lse.dtype == dtype and lse.shape == (2, 4, 37)
    expected, expected_lse = plain(q, k, v)
    close(out, expected, dtype)
    close(lse, expected_lse, dtype)
    oracle, oracle_lse = attn.reference.attention(q, k, v, return_lse=True)
    assert oracle.dtype == np.float64
    np.testing.assert_allclose(oracle, expected, atol=1e-13, rtol=0)
    np.testing.assert_allclose(oracle_lse, expected_lse, atol=1e-13, rtol=0)


@pytest.mark.parametrize("kv", [np.float16, np.float32])
def test_half_precision_is_computed_in_float32(kv):
    """Inputs as they are stored, sums in float32, one rounding at the end."""
    q, k, v = (x.astype(t) for x, t in zip(tensors(), (np.float16, kv, kv)))
    out, lse = attn.attention(q, k, v, return_lse=True)
    exact, exact_lse = attn.attention(*(x.astype(np.float32) for x in (q, k, v)), return_lse=True)
    assert out.dtype == np.float16 and lse.dtype == np.float32
    np.testing.assert_array_equal(out, exact.astype(np.float16))
    np.testing.assert_array_equal(lse, exact_lse)
    oracle = attn.reference.attention(q, k, v)
    assert oracle.dtype == np.float64
    close(exact, oracle)
    plan = attn.plan((2, 4, 2, 37, 53, 24), dtype="float16")
    if kv is np.float16:
        np.testing.assert_array_equal(plan.run(q, k, v), out)


def test_masks_scores_and_positions():
    q, k, v = tensors(lq=20, lk=50)
    mask = attn.Mask.causal() & attn.Mask.window(7, 0) | attn.Mask.global_tokens([0])
    score = attn.Score(soft_cap=5.0, alibi=True, sinks=[0.5, -1.0, 0.0, 2.0])
    for place in ({"query_start": 30}, {"q_positions": np.arange(30, 50)}):
        out = attn.attention(q, k, v, mask=mask, score=score, **place)
        close(out, attn.reference.attention(q, k, v, mask=mask, score=score, **place))
    i, j = np.arange(30, 50)[:, None], np.arange(50)[None]
    visible = ((j <= i) & (j >= i - 7)) | (j == 0)
    out = attn.attention(q, k, v, mask=mask, query_start=30)
    close(out, plain(q, k, v, visible)[0])


def test_bias_broadcasts_and_minus_infinity_hides():
    q, k, v = tensors()
    rng = np.random.default_rng(1)
    bias = rng.standard_normal((4, 1, 53)).astype(np.float32)
    bias[:, :, 7] = -np.inf
    out = attn.attention(q, k, v, score=attn.Score(bias=bias))
    close(out, plain(q, k, v, bias=bias)[0])
    k[:, :, 7] = np.nan
    np.testing.assert_array_equal(out, attn.attention(q, k, v, score=attn.Score(bias=bias)))


def test_scale_in_call_or_score_but_not_both():
    q, k, v = tensors()
    a = attn.attention(q, k, v, scale=0.3)
    b = attn.attention(q, k, v, score=attn.Score(scale=0.3))
    np.testing.assert_array_equal(a, b)
    close(a, plain(q, k, v, scale=0.3)[0])
    with pytest.raises(ValueError, match="scale.*0.3.*in the score"):
        attn.attention(q, k, v, scale=0.2, score=attn.Score(scale=0.3))


def test_strided_and_read_only_arrays_need_no_copy():
    q, k, v = tensors()
    expected = attn.attention(q, k, v)
    blhd = [np.ascontiguousarray(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3) for x in (q, k, v)]
    assert not blhd[0].flags.c_contiguous
    np.testing.assert_array_equal(attn.attention(*blhd), expected)
    for x in (q, k, v):
        x.setflags(write=False)
    np.testing.assert_array_equal(attn.attention(q, k, v), expected)
    reverse = attn.attention(q, k[:, :, ::-1], v[:, :, ::-1])
    close(reverse, expected)


def test_one_fused_projection_gives_three_views():
    rng = np.random.default_rng(3)
    qkv = rng.standard_normal((2, 30, 3, 4, 16)).astype(np.float32)  # [B, L, 3, H, D]
    q, k, v = (qkv[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
    qkv.setflags(write=False)
    out = attn.attention(q, k, v, mask=attn.Mask.causal())
    copies = [np.ascontiguousarray(x) for x in (q, k, v)]
    np.testing.assert_array_equal(out, attn.attention(*copies, mask=attn.Mask.causal()))


def test_same_bits_for_any_threads():
    q, k, v = tensors(lq=200, lk=200)
    one = attn.attention(q, k, v, threads=1)
    np.testing.assert_array_equal(one, attn.attention(q, k, v, threads=2))
    np.testing.assert_array_equal(one, attn.attention(q, k, v, threads=5))


def test_every_instruction_set():
    q, k, v = tensors()
    assert attn.isas()[-1] == "scalar"
    for isa in attn.isas():
        close(attn.attention(q, k, v, isa=isa), plain(q, k, v)[0])


def test_rows_that_see_nothing():
    q, k, v = tensors(lq=8, lk=8)
    out, lse = attn.attention(q, k, v, mask=attn.Mask.causal(), query_start=-4, return_lse=True)
    assert (out[:, :, :4] == 0).all() and np.isneginf(lse[:, :, :4]).all()
    assert np.isfinite(lse[:, :, 4:]).all()


def test_empty_lengths():
    q, k, v = tensors(lq=0)
    assert attn.attention(q, k, v).shape == (2, 4, 0, 24)
    q, k, v = tensors(lk=0)
    out, lse = attn.attention(q, k, v, return_lse=True)
    assert (out == 0).all() and np.isneginf(lse).all()


def test_merge_of_two_halves_is_the_whole():
    q, k, v = tensors()
    sinks = [0.1, 0.2, 0.3, 0.4]
    a = attn.attention(q, k[:, :, :20], v[:, :, :20], return_lse=True)
    b = attn.attention(q, k[:, :, 20:], v[:, :, 20:], return_lse=True)
    out, lse = attn.merge(*a, *b)
    expected, expected_lse = attn.attention(q, k, v, return_lse=True)
    close(out, expected)
    close(lse, expected_lse)
    out, _ = attn.merge(*a, *b, sinks=sinks)
    close(out, attn.attention(q, k, v, score=attn.Score(sinks=sinks)))


@pytest.mark.parametrize("spread", [np.asfortranarray, lambda x: np.repeat(x, 2, axis=-1)[..., ::2]])
def test_merge_never_misreads_strided_rows(spread):
    q, k, v = tensors()
    a = attn.attention(q, k[:, :, :20], v[:, :, :20], return_lse=True)
    b = attn.attention(q, k[:, :, 20:], v[:, :, 20:], return_lse=True)
    try:
        out, _ = attn.merge(spread(a[0]), a[1], spread(b[0]), b[1])
    except ValueError as error:
        assert "stride" in str(error)
    else:
        close(out, attn.attention(q, k, v))


def test_plan_runs_many_times():
    q, k, v = tensors(lq=53)
    plan = attn.plan((2, 4, 2, 53, 53, 24), mask=attn.Mask.causal(), score=attn.Score(alibi=True))
    expected = attn.attention(q, k, v, mask=attn.Mask.causal(), score=attn.Score(alibi=True))
    for _ in range(3):
        np.testing.assert_array_equal(plan.run(q, k, v), expected)
    out, lse = plan.run(q, k, v, return_lse=True)
    np.testing.assert_array_equal(out, expected)
    assert lse.shape == (2, 4, 53)
    summary = plan.summary
    assert summary.visible_pairs == 2 * 4 * 53 * 54 // 2
    assert summary.flops == 4 * 24 * summary.visible_pairs
    assert not summary.sees_future
    assert summary.kernel in plan.explain()
    with pytest.raises(ValueError):
        plan.run(q[:, :, :50], k, v)


def test_plan_serves_several_threads():
    q, k, v = tensors(lq=100, lk=100)
    plan = attn.plan((2, 4, 2, 100, 100, 24), threads=2)
    expected = attn.attention(q, k, v)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for out in pool.map(lambda _: plan.run(q, k, v), range(16)):
            np.testing.assert_array_equal(out, expected)
        for out in pool.map(lambda _: attn.attention(q, k, v), range(16)):
            np.testing.assert_array_equal(out, expected)


def test_weights_are_probabilities():
    q, k, v = tensors(lq=53)
    weights = attn.reference.weights(q, k, mask=attn.Mask.causal())
    assert weights.shape == (2, 4, 53, 53)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-12)
    assert (np.triu(weights, 1) == 0).all()


MISTAKES = {
    "k has width 16, q has 24": lambda q, k, v: attn.attention(q, k[..., :16], v),
    "multiple": lambda q, k, v: attn.attention(q[:, :3], k, v),
    "v has length": lambda q, k, v: attn.attention(q, k, v[:, :, 1:]),
    "k is float64, q is float32": lambda q, k, v: attn.attention(q, k.astype(np.float64), v),
    "v is float32, k is float16": lambda q, k, v: attn.attention(q, k.astype(np.float16), v),
    "q is int64": lambda q, k, v: attn.attention(q.astype(np.int64), k, v),
    "q has 3 dimensions": lambda q, k, v: attn.attention(q[0], k, v),
    "k has stride": lambda q, k, v: attn.attention(q, np.asfortranarray(k), v),
    "isa.*'sse2'": lambda q, k, v: attn.attention(q, k, v, isa="sse2"),
    "threads is -1": lambda q, k, v: attn.attention(q, k, v, threads=-1),
    "q_positions has 3": lambda q, k, v: attn.attention(q, k, v, q_positions=[1, 2, 3]),
    "sinks has 2": lambda q, k, v: attn.attention(q, k, v, score=attn.Score(sinks=[0, 1])),
    "soft_cap": lambda q, k, v: attn.attention(q, k, v, score=attn.Score(soft_cap=-1)),
    "bias has shape": lambda q, k, v: attn.attention(
        q, k, v, score=attn.Score(bias=np.zeros((5, 53), np.float32))
    ),
    "dtype is 'int8', must be float32": lambda q, k, v: attn.plan((1, 2, 2, 4, 5, 6), dtype="int8"),
    "shape has 5": lambda q, k, v: attn.plan((1, 2, 3, 4, 5)),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_value_errors_that_name_the_values(message):
    with pytest.raises(ValueError, match=message):
        MISTAKES[message](*tensors())


def test_other_types_are_type_errors():
    q, k, v = tensors()
    with pytest.raises(TypeError, match="q is a list, must be an array"):
        attn.attention(q.tolist(), k, v)
    with pytest.raises(TypeError):
        attn.attention(q, k, v, mask=["causal"])
    with pytest.raises(TypeError):
        attn.attention(q, k, v, frobnicate=1)


def test_errors_are_runtime_errors(tmp_path):
    assert issubclass(attn.Error, RuntimeError)
    with pytest.raises(attn.Error):
        attn.load(str(tmp_path), offline=True)
    with pytest.raises(ValueError, match="neither a folder nor a known model"):
        attn.load("/no/such/model", offline=True)


def test_other_python_threads_run_meanwhile():
    q, k, v = tensors(b=1, hq=8, hkv=8, lq=4096, lk=4096, d=64)
    work = threading.Thread(target=lambda: attn.attention(q, k, v, threads=1))
    work.start()
    beats = 0
    while work.is_alive():
        time.sleep(0.001)  # comes back only when it gets the interpreter's lock
        beats += 1
    assert beats >= 10


# Every function that takes a mask, as f(q, k, v, **options).
CALLS = {
    "attention": attn.attention,
    "observe": lambda *x, **o: attn.observe(*x, lse=True, **o)[0],
    "backward": lambda q, k, v, **o: attn.backward(
        q, k, v, *attn.attention(q, k, v, return_lse=True, **o), np.ones_like(q), **o
    ).q,
    "reference": lambda *x, **o: attn.reference.attention(*x, **o),
    "plan": lambda q, k, v, **o: attn.plan((1, 2, 2, 9, 9, 8), **o).run(q, k, v),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_masks_and_scores_in_other_words(call):
    x = tensors(b=1, hq=2, hkv=2, lq=9, lk=9, d=8)
    causal = np.tri(9, dtype=bool)
    expected = call(*x, mask=attn.Mask.causal() & attn.Mask.window(3, 0))
    np.testing.assert_array_equal(call(*x, mask="causal & window:3,0"), expected)
    np.testing.assert_array_equal(call(*x, mask=causal & ~np.tri(9, k=-4, dtype=bool)), expected)
    np.testing.assert_array_equal(
        call(*x, score="alibi+softcap:3"), call(*x, score=attn.Score(alibi=True, soft_cap=3))
    )


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_wrong_options_are_told_in_one_line(call):
    x = tensors(b=1, hq=2, hkv=2, lq=9, lk=9, d=8)
    for options, error, says in (
        ({"dropout": 0.1}, TypeError, r"dropout is a float, must be attn.Dropout\(p, seed=...\)"),
        ({"mask": 3}, TypeError, "mask is a int, must be an attn.Mask, its text"),
        ({"mask": attn.Score()}, TypeError, "mask is a Score"),
        ({"mask": "casual"}, ValueError, 'unknown mask "casual"; known: full, causal'),
        ({"mask": np.zeros((9, 9), np.float32)}, ValueError, r"an additive float mask is a Score"),
        ({"score": attn.Mask()}, TypeError, "score is a Mask, must be an attn.Score or its text"),
    ):
        with pytest.raises(error, match=says) as caught:
            call(*x, **options)
        assert "\n" not in str(caught.value)


def test_another_byte_order_is_named():
    q, k, v = tensors()
    with pytest.raises(ValueError, match=r"q is a ndarray in another byte order .* pass x.astype"):
        attn.attention(q.astype(q.dtype.newbyteorder()), k, v)


def test_scores_and_dropout_are_pickled_and_copied():
    x = tensors(b=1, hq=2, hkv=2, lq=9, lk=9, d=8)
    rng = np.random.default_rng(1)
    score = attn.Score(
        scale=0.3,
        soft_cap=5,
        bias=rng.standard_normal((9, 9)).astype(np.float32),
        alibi=[0.5, 0.25],
        t5=attn.T5Bias(rng.standard_normal((32, 2)), bidirectional=False, max_distance=64),
        sinks=[0.1, 0.2],
    )
    dropout = attn.Dropout(0.25, seed=2**63, offset=3, streams=[7])
    expected = attn.attention(*x, score=score, dropout=dropout)
    for again in (lambda a: pickle.loads(pickle.dumps(a)), copy.copy, copy.deepcopy):
        out = attn.attention(*x, score=again(score), dropout=again(dropout))
        np.testing.assert_array_equal(out, expected)
