"""attn.recurrent and attn.mamba2 against the oracle, plain NumPy and finite differences."""

import attn
import numpy as np
import pytest
from slopes import expect_slopes

B, HQ, H, L, DK, DV = 2, 2, 4, 70, 6, 5


def problem(dtype=np.float64, length=L, **parts):
    """Arguments of attn.recurrent; parts: shapes of log_decay, beta, bonus, state."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.standard_normal(shape)  # noqa: E731
    given = {"q": normal(B, HQ, length, DK), "k": normal(B, HQ, length, DK) / DK**0.5}
    given["v"] = normal(B, H, length, DV)
    for name, shape in parts.items():
        x = normal(*shape)
        given[name] = {"log_decay": -0.2 * abs(x), "beta": 1 / (1 + np.exp(x))}.get(name, x)
    if "a" in given:  # as RWKV-7: b of length 1, a = -b times something in (0, 1)
        given["b"] /= np.linalg.norm(given["b"], axis=-1, keepdims=True)
        given["a"] = -given["b"] / (1 + np.exp(given["a"]))
    return {name: x.astype(dtype) for name, x in given.items()}


STATE = {"state": (B, H, DK, DV)}
MECHANISMS = {
    "linear": ({}, {}),
    "RetNet": ({"log_decay": (1, H, 1, 1), **STATE}, {}),
    "heads alone": ({"log_decay": (H, 1, 1), "beta": (H, 1, 1)}, {}),
    "Mamba-2": ({"log_decay": (B, H, L, 1), "beta": (B, H, L, 1), **STATE}, {}),
    "RWKV-5": ({"log_decay": (1, H, 1, DK), "bonus": (H, DK), **STATE}, {}),
    "RWKV-6": ({"log_decay": (B, H, L, DK), "bonus": (1, H, 1, DK), **STATE}, {}),
    "GLA": ({"log_decay": (B, H, L, DK)}, {}),
    "RWKV-7": ({"log_decay": (B, H, L, DK), "a": (B, HQ, L, DK), "b": (B, HQ, L, DK)}, {}),
    "DeltaNet": ({"beta": (B, H, L, 1), **STATE}, {"rule": "delta"}),
    "gated DeltaNet": ({"log_decay": (B, H, L, 1), "beta": (B, H, L, 1)}, {"rule": "delta"}),
}
every_mechanism = pytest.mark.parametrize(
    ("parts", "options"), MECHANISMS.values(), ids=list(MECHANISMS)
)


def close(a, b, dtype=np.float64):
    bound = 1e-12 if dtype == np.float64 else 1e-5
    assert abs(a - b).max(initial=0) <= bound * max(1, abs(b).max(initial=0))


@every_mechanism
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_against_the_oracle(dtype, parts, options):
    x = problem(dtype, **parts)
    out, state = attn.recurrent(**x, **options, return_state=True)
    assert type(out) is np.ndarray and out.dtype == state.dtype == dtype
    assert out.shape == (B, H, L, DV) and state.shape == (B, H, DK, DV)
    oracle, oracle_state = attn.reference.recurrent(**x, **options, return_state=True)
    assert oracle.dtype == oracle_state.dtype == np.float64
    close(out, oracle, dtype)
    close(state, oracle_state, dtype)
    np.testing.assert_array_equal(attn.recurrent(**x, **options), out)


def test_against_numpy():
    """The equations of the docstring, token by token."""
    x = problem(log_decay=(B, H, L, DK), beta=(B, H, L, 1), bonus=(H, DK), state=(B, H, DK, DV))
    x |= problem(a=(B, HQ, L, DK), b=(B, HQ, L, DK))
    a, b, q, k = (np.repeat(x[name], H // HQ, axis=1) for name in "abqk")
    for reading in ("after", "before", "delta", "rank one"):
        state, out = x["state"].copy(), []
        for t in range(L):
            kt, vt = k[:, :, t, :, None], x["v"][:, :, t, None]
            beta = x["beta"][:, :, t, None]
            if reading == "before":
                out.append(q[:, :, t, None] @ (state + x["bonus"][:, :, None] * beta * kt * vt))
            turned = a[:, :, t, :, None] * (b[:, :, t, None] @ state) if reading == "rank one" else 0
            state = np.exp(x["log_decay"][:, :, t, :, None]) * state + turned
            held = kt.swapaxes(-1, -2) @ state if reading == "delta" else 0
            state = state + beta * kt * (vt - held)
            if reading != "before":
                out.append(q[:, :, t, None] @ state)
        alone = {"bonus": "before", "a": "rank one", "b": "rank one"}
        given = {name: y for name, y in x.items() if alone.get(name, reading) == reading}
        rule = "delta" if reading == "delta" else "add"
        ours, ours_state = attn.recurrent(**given, rule=rule, return_state=True)
        close(ours, np.concatenate(out, axis=2))
        close(ours_state, state)


@every_mechanism
def test_gradients_are_finite_differences(parts, options):
    x = problem(**parts)
    rng = np.random.default_rng(1)
    d_out, d_state = rng.standard_normal((B, H, L, DV)), rng.standard_normal((B, H, DK, DV))
    inputs = {name: y for name, y in x.items() if name not in "qkv"}
    gradients = attn.recurrent_backward(
        x["q"], x["k"], x["v"], d_out, d_state=d_state, wrt=list(x), **inputs, **options
    )

    def loss():
        out, state = attn.recurrent(**x, **options, return_state=True)
        return (out * d_out).sum() + (state * d_state).sum()

    expect_slopes(loss, x, gradients, 1e-6, places=5)


def test_gradients_of_what_is_asked_alone():
    x = problem(beta=(B, H, L, 1))
    d_out = np.ones((B, H, L, DV))
    three = attn.recurrent_backward(**x, d_out=d_out)
    assert repr(three) == "RecurrentGradients(q, k, v)" and three.beta is None
    only = attn.recurrent_backward(**x, d_out=d_out, wrt=["beta"])
    assert only.q is None and only.beta.shape == (B, H, L, 1)
    from_state = attn.recurrent_backward(**x, d_out=None, d_state=np.ones((B, H, DK, DV)))
    assert (from_state.q == 0).all() and (from_state.v != 0).any()


@every_mechanism
def test_continues_from_its_state(parts, options):
    x = problem(**parts)
    state = x.pop("state", None)
    whole, last = attn.recurrent(**x, **options, state=state, return_state=True)
    pieces = []
    for begin, end in ((0, 1), (1, 1), (1, 2), (2, 60), (60, 70)):
        piece = {
            name: y[:, :, begin:end] if y.ndim == 4 and y.shape[2] == L else y
            for name, y in x.items()
        }
        out, state = attn.recurrent(**piece, **options, state=state, return_state=True)
        assert out.shape[2] == end - begin
        pieces.append(out)
    close(np.concatenate(pieces, axis=2), whole)
    close(state, last)


def test_states_merge():
    x = problem(log_decay=(B, H, L, DK))
    _, whole = attn.recurrent(**x, return_state=True)
    parts = [{n: y[:, :, at] for n, y in x.items()} for at in (slice(30), slice(30, None))]
    one, two = (attn.recurrent(**part, return_state=True)[1] for part in parts)
    decay = np.ascontiguousarray(parts[1]["log_decay"].sum(2, keepdims=True))
    close(attn.merge_states(one, two, decay), whole)
    close(attn.merge_states(one, two), one + two)
    with pytest.raises(ValueError, match="second has shape"):
        attn.merge_states(one, two[:, :1])


def test_delta_states_merge():
    x = problem(log_decay=(B, H, L, 1), beta=(B, H, L, 1))
    _, whole = attn.recurrent(**x, rule="delta", return_state=True)
    parts = [{n: y[:, :, at] for n, y in x.items()} for at in (slice(30), slice(30, None))]
    one, two = (attn.recurrent(**part, rule="delta", return_state=True)[1] for part in parts)
    nothing = {**parts[1], "v": np.zeros((B, H, L - 30, DK))}
    identity = np.broadcast_to(np.eye(DK), (B, H, DK, DK))
    _, transition = attn.recurrent(**nothing, rule="delta", state=identity, return_state=True)
    close(attn.merge_delta_states(one, two, transition), whole)


def test_sequences_one_after_the_other():
    x = {name: y[:1] for name, y in problem(log_decay=(B, H, L, 1)).items()}
    offsets = [0, 3, 3, 70]
    out, states = attn.recurrent(**x, offsets=offsets, return_state=True)
    assert states.shape == (3, H, DK, DV) and (states[1] == 0).all()
    for s, (begin, end) in enumerate(zip(offsets, offsets[1:])):
        alone = {name: y[:, :, begin:end] for name, y in x.items()}
        expected, state = attn.recurrent(**alone, return_state=True)
        np.testing.assert_array_equal(out[:, :, begin:end], expected)
        np.testing.assert_array_equal(states[s], state[0])
    oracle = attn.reference.recurrent(**x, offsets=np.array(offsets))
    close(out, oracle)
    d_out = np.ones_like(out)
    gradients = attn.recurrent_backward(
        **x, d_out=d_out, offsets=offsets, wrt=["k", "log_decay", "state"]
    )
    assert gradients.state.shape == (3, H, DK, DV)
    last = attn.recurrent_backward(
        **{name: y[:, :, 3:] for name, y in x.items()}, d_out=d_out[:, :, 3:]
    )
    np.testing.assert_array_equal(gradients.k[:, :, 3:], last.k)


def test_normalised():
    """Linear attention: sums over all pairs."""
    x = problem()
    x["q"], x["k"] = abs(x["q"]), abs(x["k"])
    out, state = attn.recurrent(**x, normalise=True, epsilon=0.25, return_state=True)
    assert state.shape == (B, H, DK, DV + 1)
    q, k = (np.repeat(x[name], H // HQ, axis=1) for name in "qk")
    weights = np.tril(q @ k.swapaxes(-1, -2))
    close(out, weights @ x["v"] / (weights.sum(-1, keepdims=True) + 0.25))
    close(state[..., -1], k.sum(2))
    zeros = attn.recurrent(np.zeros_like(x["q"]), x["k"], x["v"], normalise=True)
    assert (zeros == 0).all()


def test_strided_and_read_only_arrays_need_no_copy():
    x = problem(np.float32, log_decay=(B, H, L, DK), beta=(B, H, L, 1))
    expected = attn.recurrent(**x)
    blhd = {
        name: np.ascontiguousarray(y.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
        for name, y in x.items()
    }
    for y in blhd.values():
        y.setflags(write=False)
    assert not blhd["q"].flags.c_contiguous
    np.testing.assert_array_equal(attn.recurrent(**blhd), expected)
    backwards = {name: y[:, :, ::-1] for name, y in x.items()}
    close(attn.recurrent(**backwards), attn.reference.recurrent(**backwards), np.float32)
    whole = np.broadcast_to(x["beta"][:, :, :1], (B, H, L, 1))
    one = {**x, "beta": np.ascontiguousarray(whole)}
    np.testing.assert_array_equal(attn.recurrent(**{**x, "beta": whole}), attn.recurrent(**one))


@pytest.mark.parametrize("length", [0, 1])
@every_mechanism
def test_shortest_lengths(parts, options, length):
    shapes = {n: tuple(length if d == L else d for d in s) for n, s in parts.items()}
    x = problem(length=length, **shapes)
    out, state = attn.recurrent(**x, **options, return_state=True)
    assert out.shape == (B, H, length, DV)
    oracle, oracle_state = attn.reference.recurrent(**x, **options, return_state=True)
    close(out, oracle)
    close(state, oracle_state)
    d_state = np.ones((B, H, DK, DV))
    gradients = attn.recurrent_backward(
        **x, **options, d_out=np.ones_like(out), d_state=d_state, wrt=[*x, "state"]
    )
    for name, y in x.items():
        assert getattr(gradients, name).shape == y.shape
    if length == 0:
        np.testing.assert_array_equal(gradients.state, d_state)


def test_nan_reaches_no_earlier_token():
    x = problem(np.float32, log_decay=(B, H, L, 1))
    clean = attn.recurrent(**x)
    x["k"][0, :, 40] = x["v"][0, :, 40] = np.nan
    out = attn.recurrent(**x)
    close(out[:, :, :40], clean[:, :, :40], np.float32)
    assert np.isnan(out[0, :, 40:]).all()
    np.testing.assert_array_equal(out[1], clean[1])


def test_decays_at_both_extremes():
    x = problem(np.float32)
    for decay in (0.0, -1e-30, -1e4, -np.inf):
        log_decay = np.full((1, 1, 1, 1), decay, np.float32)
        close(
            attn.recurrent(**x, log_decay=log_decay),
            attn.reference.recurrent(**x, log_decay=log_decay),
            np.float32,
        )


def test_same_bits_for_any_threads_and_every_instruction_set_agrees():
    x = problem(np.float32, log_decay=(B, H, L, DK))
    one = attn.recurrent(**x, threads=1)
    np.testing.assert_array_equal(one, attn.recurrent(**x, threads=3))
    for isa in attn.isas():
        close(attn.recurrent(**x, isa=isa), attn.reference.recurrent(**x), np.float32)


MISTAKES = {
    r"\[recurrent\] k has shape \[2, 2, 70, 3\], must be": {"k": np.zeros((B, HQ, L, 3))},
    "v is float32, must be float64|v is float32, q is float64": {
        "v": np.zeros((B, H, L, DV), np.float32)
    },
    "q is float16, must be float32 or float64": {
        name: np.zeros((B, HQ, L, DK), np.float16) for name in "qkv"
    },
    "v has 3 heads, must be a multiple": {"v": np.zeros((B, 3, L, DV))},
    "log_decay has shape": {"log_decay": np.zeros((B, 3, L, 1))},
    "beta has shape": {"beta": np.zeros((B, H, L, 2))},
    "bonus has shape": {"bonus": np.zeros((3, DK))},
    r"state has shape \[2, 4, 6, 6\], must be \[2, 4, 6, 5\]": {"state": np.zeros((B, H, 6, 6))},
    "state has 3 dimensions, must have 4": {"state": np.zeros((B, H, 6))},
    "rule is 'sub', must be add or delta": {"rule": "sub"},
    "the delta rule has no bonus": {"rule": "delta", "bonus": np.zeros((H, DK))},
    "a rank-one term needs both a and b": {"a": np.zeros((B, HQ, L, DK))},
    "epsilon is -1": {"epsilon": -1.0},
    "offsets need batch 1": {"offsets": [0, L]},
    "isa.*'sse2'": {"isa": "sse2"},
    "stride": {"q": np.asfortranarray(np.zeros((B, HQ, L, DK)))},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_name_the_values(message):
    with pytest.raises(ValueError, match=message):
        attn.recurrent(**{**problem(), **MISTAKES[message]})


def test_mistakes_of_gradients():
    x, d_out = problem(), np.ones((B, H, L, DV))
    with pytest.raises(ValueError, match="wrt holds 'gate', must be among q, k, v, log_decay"):
        attn.recurrent_backward(**x, d_out=d_out, wrt=["gate"])
    with pytest.raises(ValueError, match="gradient of beta is asked for, but there is none"):
        attn.recurrent_backward(**x, d_out=d_out, wrt=["beta"])
    with pytest.raises(ValueError, match=r"\[recurrent_backward\] d_out has shape"):
        attn.recurrent_backward(**x, d_out=d_out[:, :, 1:])
    with pytest.raises(TypeError, match="q is a list, must be an array"):
        attn.recurrent(x["q"].tolist(), x["k"], x["v"])


def space(dtype=np.float64, length=L):
    """Arguments of attn.mamba2 with 4 heads in 2 groups."""
    rng = np.random.default_rng(3)
    normal = lambda *shape: rng.standard_normal(shape).astype(dtype)  # noqa: E731
    return {
        "x": normal(B, H, length, DV),
        "dt": normal(B, H, length),
        "a": -np.exp(normal(H)),
        "b": normal(B, HQ, length, DK),
        "c": normal(B, HQ, length, DK),
        "d": normal(H),
        "dt_bias": normal(H),
        "state": normal(B, H, DK, DV),
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("length", [0, 1, L])
def test_mamba2(dtype, length):
    s = space(dtype, length)
    options = {"dt_limits": (0.1, 2.0), "return_state": True}
    y, state = attn.mamba2(**s, **options)
    oracle, oracle_state = attn.reference.mamba2(**s, **options)
    close(y, oracle, dtype)
    close(state, oracle_state, dtype)
    column = {**s, "dt": s["dt"][..., None], "d": s["d"][None, :, None, None]}
    np.testing.assert_array_equal(attn.mamba2(**column, **options)[0], y)
    # The same in terms of the recurrence.
    dt = np.clip(np.log1p(np.exp(s["dt"] + s["dt_bias"][:, None])), 0.1, 2.0)[..., None]
    again = attn.recurrent(
        s["c"], s["b"], s["x"], dt * s["a"][:, None, None], dt.astype(dtype), state=s["state"]
    )
    close(y, again + s["d"][:, None, None] * s["x"], dtype)


def test_mamba2_gradients_are_finite_differences():
    s = space()
    rng = np.random.default_rng(4)
    d_y, d_state = rng.standard_normal((B, H, L, DV)), rng.standard_normal((B, H, DK, DV))
    gradients = attn.mamba2_backward(**s, d_y=d_y, d_state=d_state, wrt=list(s))

    def loss():
        y, state = attn.mamba2(**s, return_state=True)
        return (y * d_y).sum() + (state * d_state).sum()

    expect_slopes(loss, s, gradients, 1e-6, places=5)


def test_mamba2_mistakes():
    s = space()
    for says, wrong in {
        r"\[mamba2\] dt has shape \[2, 4, 69, 1\]": {"dt": s["dt"][:, :, 1:]},
        "a has shape": {"a": s["a"][1:]},
        "multiple of the 3 groups": {n: np.zeros((B, 3, L, DK)) for n in "bc"},
        "c has shape": {"c": s["c"][..., 1:]},
        "dt_min is 2": {"dt_limits": (2.0, 1.0)},
        "state has shape": {"state": s["state"][..., 1:]},
        "b is float32": {"b": s["b"].astype(np.float32)},
        "offsets run from 0 to 71": {
            **{n: s[n][:1] for n in ("x", "dt", "b", "c", "state")},
            "offsets": [0, L + 1],
        },
    }.items():
        for function in (attn.mamba2, attn.reference.mamba2):
            if says == "b is float32" and function is attn.reference.mamba2:
                continue  # all is float64 there
            with pytest.raises(ValueError, match=says):
                function(**{**s, **wrong})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_decays_of_layers(dtype):
    x = np.linspace(-8, 8, 60).reshape(3, 4, 5).astype(dtype)
    sigmoid = 1 / (1 + np.exp(-x.astype(np.float64)))
    formulas = {
        "gla": (np.log(sigmoid) / 16, (1 - sigmoid) / 16),
        "rwkv": (-np.exp(x), -np.exp(x)),
        "rwkv7": (-np.exp(-0.5) * sigmoid, -np.exp(-0.5) * sigmoid * (1 - sigmoid)),
        "delta": (np.log(1 - sigmoid), -sigmoid),
    }
    for kind, (value, slope) in formulas.items():
        out = attn.log_decay(x, kind)
        assert out.shape == x.shape and out.dtype == dtype and (out <= 0).all()
        np.testing.assert_allclose(out, value, rtol=2e-6 if dtype == np.float32 else 1e-11)
        d_x = attn.log_decay_backward(x, np.full_like(x, 2), kind)
        np.testing.assert_allclose(d_x, 2 * slope, rtol=2e-6 if dtype == np.float32 else 1e-11)
    for kind in formulas:
        assert (attn.log_decay(np.array([-1e30, 1e30]), kind) <= 0).all()
    with pytest.raises(ValueError, match="kind is 'retnet', must be gla, rwkv, rwkv7 or delta"):
        attn.log_decay(x, "retnet")
    retnet = attn.retnet_log_decay(8)
    assert retnet.shape == (1, 8, 1, 1)
    np.testing.assert_allclose(np.exp(retnet[0, :, 0, 0]), 1 - 2.0 ** (-5 - np.arange(8)))
