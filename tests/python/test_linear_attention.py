"""attn.linear_attention and FAVOR+ against plain NumPy, the oracle and finite differences."""

import copy
import pickle

import attn
import numpy as np
import pytest
from slopes import expect_slopes

B, HQ, H, L, DK, DV = 2, 2, 4, 70, 6, 5
FEATURES = attn.RandomFeatures(DK, 32, seed=3)
MAPS = {
    "elu": {},
    "relu": {"map": "relu", "epsilon": 0.5},
    "identity": {"map": "identity", "normalise": False},
    "favor": {"map": "favor", "features": FEATURES},
}
every_map = pytest.mark.parametrize("options", MAPS.values(), ids=list(MAPS))


def problem(dtype=np.float64, length=L):
    rng = np.random.default_rng(0)
    shapes = (B, HQ, length, DK), (B, HQ, length, DK), (B, H, length, DV)
    return [rng.standard_normal(s).astype(dtype) for s in shapes]


def phi(x, options):
    name = options.get("map", "elu")
    if name == "favor":
        x = x / x.shape[-1] ** 0.25
        w = options["features"].directions
        return np.exp(x @ w.T - (x * x).sum(-1, keepdims=True) / 2) / len(w) ** 0.5
    return {
        "elu": lambda: np.where(x > 0, x + 1, np.exp(np.minimum(x, 0))),
        "relu": lambda: np.maximum(x, 0),
        "identity": lambda: x,
    }[name]()


def by_hand(q, k, v, options, causal=True):
    q, k = (np.repeat(phi(x, options), H // HQ, axis=1) for x in (q, k))
    weights = q @ k.swapaxes(-1, -2)
    if causal:
        weights = np.tril(weights)
    if not options.get("normalise", True):
        return weights @ v
    return weights @ v / (weights.sum(-1, keepdims=True) + options.get("epsilon", 0))


def close(a, b, dtype=np.float64):
    bound = 1e-11 if dtype == np.float64 else 2e-5
    assert abs(a - b).max(initial=0) <= bound * max(1, abs(b).max(initial=0))


@every_map
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_against_numpy_and_the_oracle(options, causal, dtype):
    x = problem(dtype)
    out = attn.linear_attention(*x, causal=causal, **options)
    assert type(out) is np.ndarray and out.dtype == dtype and out.shape == (B, H, L, DV)
    expected = by_hand(*(y.astype(np.float64) for y in x), options, causal)
    close(out, expected, dtype)
    oracle = attn.reference.linear_attention(*x, causal=causal, **options)
    assert oracle.dtype == np.float64
    close(oracle, expected)


@every_map
@pytest.mark.parametrize("causal", [True, False])
def test_gradients_are_finite_differences(options, causal):
    x = problem()
    rng = np.random.default_rng(1)
    d_out = rng.standard_normal((B, H, L, DV))
    gradients = attn.linear_attention_backward(*x, d_out, causal=causal, **options)
    loss = lambda: (attn.linear_attention(*x, causal=causal, **options) * d_out).sum()  # noqa: E731
    expect_slopes(loss, dict(zip("qkv", x)), gradients, 1e-6, places=5)
    only = attn.linear_attention_backward(*x, d_out, causal=causal, wrt=["v"], **options)
    assert only.q is None
    np.testing.assert_array_equal(only.v, gradients.v)


@every_map
def test_a_state_is_saved_and_continued(options, tmp_path):
    x = problem()
    whole, last = attn.linear_attention(*x, **options, return_state=True)
    first, state = attn.linear_attention(*(y[:, :, :30] for y in x), **options, return_state=True)
    assert set(state) == ({"sums", "log_scale"} if "features" in options else {"sums"})
    kept = {name: y.copy() for name, y in state.items()}
    np.savez(tmp_path / "state.npz", **state)
    for before in (state, np.load(tmp_path / "state.npz")):
        rest = [y[:, :, 30:] for y in x]
        second, after = attn.linear_attention(*rest, **options, state=before, return_state=True)
        close(np.concatenate([first, second], axis=2), whole)
        np.testing.assert_array_equal(
            attn.linear_attention(*rest, **options, state=before), second
        )
        for name in last:
            close(after[name], last[name])
    for name in state:  # the caller's stays as it is
        np.testing.assert_array_equal(state[name], kept[name])


@every_map
def test_states_merge(options):
    x = problem()
    whole = attn.linear_attention(*x, **options, return_state=True)[1]
    one, two = (
        attn.linear_attention(*(y[:, :, at] for y in x), **options, return_state=True)[1]
        for at in (slice(30), slice(30, None))
    )
    kept = one["sums"].copy()
    merged = attn.merge_linear_states(one, two)
    np.testing.assert_array_equal(one["sums"], kept)
    scale = lambda s: np.exp(s.get("log_scale", 0.0))  # noqa: E731
    close(merged["sums"] * scale(merged), whole["sums"] * scale(whole))
    none = attn.linear_attention(*(y[:, :, :0] for y in x), **options, return_state=True)[1]
    for name, y in attn.merge_linear_states(none, one).items():
        np.testing.assert_array_equal(y, one[name])


@every_map
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [0, 1])
def test_shortest_lengths(options, causal, length):
    x = problem(length=length)
    out = attn.linear_attention(*x, causal=causal, **options)
    assert out.shape == (B, H, length, DV)
    close(out, by_hand(*x, options, causal))
    gradients = attn.linear_attention_backward(*x, np.ones_like(out), causal=causal, **options)
    assert gradients.k.shape == (B, HQ, length, DK)


@every_map
@pytest.mark.parametrize("causal", [True, False])
def test_ragged_equals_separate(options, causal):
    x = [y[:1] for y in problem()]
    offsets = np.array([0, 0, 1, 40, L])
    out = attn.linear_attention(*x, causal=causal, **options, offsets=offsets)
    d_out = np.ones_like(out)
    gradients = attn.linear_attention_backward(*x, d_out, causal=causal, **options, offsets=offsets)
    close(out, attn.reference.linear_attention(*x, causal=causal, **options, offsets=offsets))
    for begin, end in zip(offsets, offsets[1:]):
        part = [y[:, :, begin:end] for y in x]
        close(out[:, :, begin:end], attn.linear_attention(*part, causal=causal, **options))
        alone = attn.linear_attention_backward(
            *part, d_out[:, :, begin:end], causal=causal, **options
        )
        for name in "qkv":
            close(getattr(gradients, name)[:, :, begin:end], getattr(alone, name))
    if causal:
        states = attn.linear_attention(*x, **options, offsets=offsets, return_state=True)[1]
        one = attn.linear_attention(*part, **options, return_state=True)[1]
        for name, y in states.items():
            assert y.shape[0] == 4
            close(y[3], one[name][0])


def test_strided_arrays_need_no_copy():
    x = problem(np.float32)
    blhd = [np.ascontiguousarray(y.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3) for y in x]
    np.testing.assert_array_equal(attn.linear_attention(*blhd), attn.linear_attention(*x))


@every_map
def test_nan_reaches_no_earlier_token(options):
    q, k, v = problem(np.float32)
    clean = attn.linear_attention(q, k, v, **options)
    k[0, :, 40] = v[0, :, 40] = np.nan
    out = attn.linear_attention(q, k, v, **options)
    np.testing.assert_array_equal(out[:, :, :40], clean[:, :, :40])
    np.testing.assert_array_equal(out[1], clean[1])
    assert np.isnan(out[0, :, 40:]).all()


def test_random_features():
    w = FEATURES.directions
    assert w.shape == (32, DK) and w.dtype == np.float64
    block = w[:DK] / np.linalg.norm(w[:DK], axis=1, keepdims=True)
    np.testing.assert_allclose(block @ block.T, np.eye(DK), atol=1e-14)
    np.testing.assert_array_equal(attn.RandomFeatures(DK, 32, seed=3).directions, w)
    assert (attn.RandomFeatures(DK, 32, seed=4).directions != w).any()
    assert repr(FEATURES) == "RandomFeatures(6, 32, seed=3)"
    plain = attn.RandomFeatures(DK, 32, seed=2**63, orthogonal=False)
    for again in (lambda f: pickle.loads(pickle.dumps(f)), copy.deepcopy):
        np.testing.assert_array_equal(again(plain).directions, plain.directions)
    with pytest.raises(ValueError, match="number of features is 0"):
        attn.RandomFeatures(DK, 0)


def test_favor_estimates_attention():
    """More features, closer to softmax."""
    rng = np.random.default_rng(5)
    q, k, v = (rng.standard_normal((1, 1, 64, 16)) * 0.5 for _ in range(3))
    exact = attn.attention(q, k, v, mask=attn.Mask.causal())

    def error(count):
        errors = []
        for seed in range(8):
            features = attn.RandomFeatures(16, count, seed=seed)
            out = attn.linear_attention(q, k, v, map="favor", features=features)
            errors.append(abs(out - exact).mean())
        return np.mean(errors)

    assert error(1024) < error(64) / 2 and error(1024) < 0.02


MISTAKES = {
    "map is 'gelu', must be identity, relu, elu or favor": {"map": "gelu"},
    "favor needs random features": {"map": "favor"},
    "random features are for favor": {"features": FEATURES},
    "favor needs the normalisation": {"map": "favor", "features": FEATURES, "normalise": False},
    "random features has width 3|width 3": {
        "map": "favor",
        "features": attn.RandomFeatures(3, 8),
    },
    "a state is for causal attention": {"causal": False, "return_state": True},
    "state holds no sums": {"state": {}},
    "state holds 'sum', must be sums": {"state": {"sum": np.zeros((B, H, DK, DV + 1))}},
    r"state.sums has shape \[2, 4, 6, 5\]": {"state": {"sums": np.zeros((B, H, DK, DV))}},
    "favor needs state.log_scale": {
        "map": "favor",
        "features": FEATURES,
        "state": {"sums": np.zeros((B, H, 32, DV + 1))},
    },
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_name_the_values(message):
    with pytest.raises(ValueError, match=message):
        attn.linear_attention(*problem(), **MISTAKES[message])


def test_a_state_of_another_kind_is_a_type_error():
    with pytest.raises(TypeError, match="state is a ndarray, must be a dict with sums"):
        attn.linear_attention(*problem(), state=np.zeros((B, H, DK, DV + 1)))
