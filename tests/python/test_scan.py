"""attn.causal_convolution, attn.selective_scan and attn.wkv4 against the oracle, plain NumPy and
finite differences."""

import attn
import numpy as np
import pytest
from slopes import expect_slopes

B, L, C, N, WIDTH = 2, 23, 6, 4, 4

# For each function: the shapes of its arguments, where L stands for the length.
PROBLEMS = {
    "convolution": (
        "causal_convolution",
        {"x": (B, L, C), "weight": (WIDTH, C), "bias": (C,), "state": (B, WIDTH - 1, C)},
        {"silu": True},
    ),
    "plain convolution": ("causal_convolution", {"x": (B, L, C), "weight": (2, C)}, {}),
    "scan": (
        "selective_scan",
        {"u": (B, L, C), "delta": (B, L, C), "a": (N, C), "b": (B, L, N), "c": (B, L, N)}
        | {"d": (C,), "z": (B, L, C), "delta_bias": (C,), "state": (B, N, C)},
        {"softplus": True},
    ),
    "scan in groups": (
        "selective_scan",
        {"u": (B, L, C), "delta": (B, L, C), "a": (N, C), "b": (B, L, 3, N), "c": (B, L, 3, N)},
        {"softplus": True},
    ),
    "wkv4": (
        "wkv4",
        {"k": (B, L, C), "v": (B, L, C), "decay": (C,), "bonus": (C,), "state": (B, 3, C)},
        {},
    ),
    "fresh wkv4": ("wkv4", {"k": (B, L, C), "v": (B, L, C), "decay": (C,), "bonus": (C,)}, {}),
}
every_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=list(PROBLEMS))


def made(shapes, dtype=np.float64, length=L):
    """Numbers in these shapes; decays below 0, weights of a state above."""
    rng = np.random.default_rng(3)
    x = {
        name: rng.uniform(-1, 1, [length if n == L else n for n in shape])
        for name, shape in shapes.items()
    }
    for decay in ("a", "decay"):
        if decay in x:
            x[decay] = -1 - x[decay]
    if "k" in x and "state" in x:
        x["state"][:, 1] = 1 + abs(x["state"][:, 1])
    return {name: y.astype(dtype) for name, y in x.items()}


def tokens(x, begin, end):
    """The same of some tokens."""
    return {n: y[:, begin:end] if y.ndim > 2 and n != "state" else y for n, y in x.items()}


def close(a, b, dtype=np.float64):
    bound = 1e-13 if dtype == np.float64 else 2e-5
    assert a.shape == b.shape
    assert abs(a - b).max(initial=0) <= bound * max(1, abs(b).max(initial=0))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("length", [0, 1, L])
@every_problem
def test_against_the_oracle(problem, length, dtype):
    name, shapes, options = problem
    x = made(shapes, dtype, length)
    run, oracle = getattr(attn, name), getattr(attn.reference, name)
    out, state = run(**x, **options, return_state=True)
    assert type(out) is np.ndarray and out.dtype == state.dtype == dtype
    assert out.shape == (B, length, C)
    expected, expected_state = oracle(**x, **options, return_state=True)
    assert expected.dtype == expected_state.dtype == np.float64
    close(out, expected, dtype)
    close(state, expected_state, dtype)
    np.testing.assert_array_equal(run(**x, **options), out)
    np.testing.assert_array_equal(oracle(**x, **options), expected)


@every_problem
def test_the_same_bits_in_pieces_and_for_any_threads(problem):
    name, shapes, options = problem
    x = made(shapes, np.float32)
    run, state = getattr(attn, name), x.pop("state", None)
    whole, last = run(**x, **options, state=state, return_state=True, threads=1)
    np.testing.assert_array_equal(run(**x, **options, state=state, threads=3), whole)
    pieces = []
    for begin, end in ((0, 1), (1, 1), (1, 3), (3, 20), (20, L)):
        piece = tokens(x, begin, end)
        out, state = run(**piece, **options, state=state, return_state=True)
        pieces.append(out)
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)
    np.testing.assert_array_equal(state, last)
    for isa in attn.isas():
        close(run(**x, **options, isa=isa), getattr(attn.reference, name)(**x, **options), np.float32)


@pytest.mark.parametrize("groups", [1, 3])
def test_selective_scan_is_its_formula(groups):
    _, shapes, options = PROBLEMS["scan"]
    x = made(shapes | {"b": (B, L, groups, N), "c": (B, L, groups, N)})
    step = np.log1p(np.exp(x["delta"] + x["delta_bias"]))
    h, expected = x["state"], np.empty((B, L, C))
    b, c = (np.repeat(x[name], C // groups, axis=2) for name in "bc")
    for t in range(L):
        s = step[:, t, None]
        h = np.exp(s * x["a"]) * h + s * x["u"][:, t, None] * b[:, t].swapaxes(1, 2)
        y = (c[:, t].swapaxes(1, 2) * h).sum(1) + x["d"] * x["u"][:, t]
        expected[:, t] = y * x["z"][:, t] * sigmoid(x["z"][:, t])
    out, last, elapsed = attn.selective_scan(**x, **options, return_state=True, return_elapsed=True)
    close(out, expected)
    close(last, h)
    close(elapsed, step.sum(1))
    again, alone = attn.selective_scan(**x, **options, return_elapsed=True)
    np.testing.assert_array_equal(again, out)
    np.testing.assert_array_equal(alone, elapsed)
    close(attn.reference.selective_scan(**x, **options, return_elapsed=True)[1], elapsed)
    if groups == 1:
        same = attn.selective_scan(**{**x, "b": x["b"][:, :, 0], "c": x["c"][:, :, 0]}, **options)
        np.testing.assert_array_equal(same, out)


def test_causal_convolution_is_its_formula():
    _, shapes, options = PROBLEMS["convolution"]
    x = made(shapes)
    whole = np.concatenate([x["state"], x["x"]], 1)
    sums = x["bias"] + sum(x["weight"][i] * whole[:, i : i + L] for i in range(WIDTH))
    out, last = attn.causal_convolution(**x, **options, return_state=True)
    close(out, sums * sigmoid(sums))
    np.testing.assert_array_equal(last, whole[:, -3:])


def test_wkv4_is_its_formula():
    _, shapes, _ = PROBLEMS["fresh wkv4"]
    x = made(shapes)
    p = q = np.zeros((B, C))
    expected = np.empty((B, L, C))
    for t in range(L):
        own, weight = np.exp(x["bonus"] + x["k"][:, t]), np.exp(x["k"][:, t])
        expected[:, t] = (p + own * x["v"][:, t]) / (q + own)
        p, q = np.exp(x["decay"]) * p + weight * x["v"][:, t], np.exp(x["decay"]) * q + weight
    out, state = attn.wkv4(**x, return_state=True)
    close(out, expected)
    scale = np.exp(state[:, 2])
    close(state[:, 0] * scale, p)
    close(state[:, 1] * scale, q)


@every_problem
def test_gradients_are_finite_differences(problem):
    name, shapes, options = problem
    x = made(shapes)
    run, backward = getattr(attn, name), getattr(attn, name + "_backward")
    rng = np.random.default_rng(1)
    out, state = run(**x, **options, return_state=True)
    d_out, d_state = rng.standard_normal(out.shape), rng.standard_normal(state.shape)
    gradients = backward(**x, **options, d_out=d_out, d_state=d_state, wrt=list(x))

    def loss():
        out, state = run(**x, **options, return_state=True)
        return (out * d_out).sum() + (state * d_state).sum()

    expect_slopes(loss, x, gradients, 1e-7)
    single = {what: y.astype(np.float32) for what, y in x.items()}
    flows = {"d_out": d_out.astype(np.float32), "d_state": d_state.astype(np.float32)}
    one = backward(**single, **options, **flows, wrt=list(x), threads=1)
    three = backward(**single, **options, **flows, wrt=list(x), threads=3)
    for what in x:
        np.testing.assert_array_equal(getattr(one, what), getattr(three, what))
        close(getattr(one, what), getattr(gradients, what), np.float32)


@every_problem
def test_gradients_of_what_is_asked_alone(problem):
    name, shapes, options = problem
    x = made(shapes)
    backward = getattr(attn, name + "_backward")
    out, state = getattr(attn, name)(**x, **options, return_state=True)
    some = backward(**x, **options, d_out=np.ones_like(out))
    first = {"causal_convolution": "x, weight", "wkv4": "k, v, decay, bonus"}
    assert repr(some).endswith(f"Gradients({first.get(name, 'u, delta, a, b, c')})")
    assert some.state is None
    last = backward(**x, **options, d_out=None, d_state=np.ones_like(state), wrt=[*x])
    zero = backward(**x, **options, d_out=np.zeros_like(out), d_state=np.ones_like(state), wrt=[*x])
    for what in x:
        np.testing.assert_array_equal(getattr(last, what), getattr(zero, what))
    # A fresh state has a gradient, as any other.
    x.pop("state", None)
    fresh = np.zeros_like(state)
    if name == "wkv4":
        fresh[:, 2] = -1e38
    flows = {"d_out": np.ones_like(out), "wrt": ["state"]}
    ours = backward(**x, **options, **flows).state
    np.testing.assert_array_equal(ours, backward(**x, **options, **flows, state=fresh).state)
    nothing = tokens(x, 0, 0)
    flows = {"d_out": out[:, :0], "d_state": state, "state": state}
    ends = backward(**nothing, **options, **flows, wrt=[*x, "state"])
    close(ends.state, state)
    for what, y in nothing.items():
        assert getattr(ends, what).shape == y.shape and (getattr(ends, what) == 0).all()


def test_gradients_of_numbers_that_are_not_given():
    """Of a bias or skip of 0."""
    x = made(PROBLEMS["scan in groups"][1])
    d_out = np.ones((B, L, C))
    zeros = {"d": np.zeros(C), "delta_bias": np.zeros(C)}
    given = attn.selective_scan_backward(**x, **zeros, d_out=d_out, wrt=list(zeros))
    absent = attn.selective_scan_backward(**x, d_out=d_out, wrt=list(zeros))
    for name in zeros:
        np.testing.assert_array_equal(getattr(absent, name), getattr(given, name))
    x = made(PROBLEMS["plain convolution"][1])
    bias = attn.causal_convolution_backward(**x, d_out=d_out, wrt=["bias"]).bias
    np.testing.assert_array_equal(bias, np.full(C, B * L))


@pytest.mark.parametrize("cut", [0, 1, 2, 11, L - 1, L])
def test_states_merge(cut):
    lengths = [L - cut] * B

    def parts(problem):
        name, shapes, options = PROBLEMS[problem]
        x = made(shapes)
        run = lambda **x: getattr(attn, name)(**x, **options, return_state=True)  # noqa: E731
        _, whole = run(**x)
        _, first = run(**tokens(x, 0, cut))
        rest = tokens(x, cut, L)
        rest.pop("state")
        return x, rest, whole, first, run(**rest)[1]

    _, _, whole, first, second = parts("convolution")
    np.testing.assert_array_equal(attn.merge_convolution_states(first, second, lengths), whole)
    x, _, whole, first, second = parts("wkv4")
    merged = attn.merge_wkv4_states(first, second, x["decay"], lengths)
    for row in (0, 1):
        close(merged[:, row] * np.exp(merged[:, 2]), whole[:, row] * np.exp(whole[:, 2]))
    x, rest, whole, first, second = parts("scan")
    _, elapsed = attn.selective_scan(**rest, softplus=True, return_elapsed=True)
    assert elapsed.shape == (B, C) and elapsed.dtype == np.float64
    close(attn.merge_scan_states(first, second, x["a"], elapsed), whole)


@every_problem
def test_offsets_are_sequences(problem):
    name, shapes, options = problem
    run, backward = getattr(attn, name), getattr(attn, name + "_backward")
    x = {n: y[:1] if y.ndim > 2 else y for n, y in made(shapes, np.float32).items()}
    x.pop("state", None)
    offsets = [0, 4, 4, L]
    out, states = run(**x, **options, offsets=offsets, return_state=True)
    assert out.dtype == np.float32 and states.shape[0] == 3
    last = tokens(x, 4, L)
    alone, state = run(**last, **options, return_state=True)
    np.testing.assert_array_equal(out[:, 4:], alone)
    np.testing.assert_array_equal(states[2:], state)
    again, _ = run(**last, **options, state=states[1:2], return_state=True)
    np.testing.assert_array_equal(again, alone)  # a sequence without tokens leaves a fresh state
    oracle = getattr(attn.reference, name)(**x, **options, offsets=np.array(offsets))
    close(out, oracle, np.float32)
    if name == "selective_scan":
        _, elapsed = run(**x, **options, offsets=offsets, return_elapsed=True)
        assert elapsed.shape == (3, C) and (elapsed[1] == 0).all()
    given = next(iter(x))
    both = backward(**x, **options, d_out=np.ones_like(out), offsets=offsets, wrt=[given, "state"])
    one = backward(**last, **options, d_out=np.ones_like(alone), wrt=[given])
    assert both.state.shape == states.shape
    np.testing.assert_array_equal(getattr(both, given)[:, 4:], getattr(one, given))


@every_problem
def test_strided_and_read_only_arrays_need_no_copy(problem):
    name, shapes, options = problem
    x = made(shapes, np.float32)
    expected = getattr(attn, name)(**x, **options)
    wide = {}
    for what, y in x.items():
        twice = np.concatenate([y, np.full_like(y, np.nan)], axis=-1)  # as projections write them
        wide[what] = twice[..., : y.shape[-1]]
        wide[what].setflags(write=False)
    np.testing.assert_array_equal(getattr(attn, name)(**wide, **options), expected)
    backwards = {what: y[:, ::-1] if y.ndim > 2 else y for what, y in x.items()}
    oracle = getattr(attn.reference, name)(**backwards, **options)
    close(getattr(attn, name)(**backwards, **options), oracle, np.float32)


def test_mistakes_are_named():
    x, decay, weight = np.zeros((B, L, C)), np.zeros(C), np.zeros((WIDTH, C))
    a, b = np.zeros((N, C)), np.zeros((B, L, N))
    for says, call in {
        r"\[wkv4\] v has shape \[2, 1, 22, 6\]": lambda: attn.wkv4(x, x[:, 1:], decay, decay),
        r"\[wkv4\] k has 2 dimensions, must have 3": lambda: attn.wkv4(x[0], x, decay, decay),
        "decay has shape": lambda: attn.wkv4(x, x, decay[1:], decay),
        "bonus is float32": lambda: attn.wkv4(x, x, decay, decay.astype(np.float32)),
        "wkv4.* state has shape": lambda: attn.wkv4(x, x, decay, decay, state=x),
        "offsets need a batch of 1": lambda: attn.wkv4(x, x, decay, decay, offsets=[0, L]),
        "isa.*'sse2'": lambda: attn.wkv4(x, x, decay, decay, isa="sse2"),
        r"\[selective_scan\] b has 2 dimensions, must have 3": lambda: attn.selective_scan(
            x, x, a, b[0], b
        ),
        "4 groups, which do not divide 6 channels": lambda: attn.selective_scan(
            x, x, a, np.zeros((B, L, 4, N)), b
        ),
        "c has shape": lambda: attn.selective_scan(x, x, a, b, b[:, 1:]),
        r"a has shape \[1, 1, 4, 5\]": lambda: attn.selective_scan(x, x, a[:, 1:], b, b),
        "x is float16, must be float32 or float64": lambda: attn.causal_convolution(
            x.astype(np.float16), weight
        ),
        "weight has width 1, must be 2 to 8": lambda: attn.causal_convolution(x, weight[:1]),
        "weight has stride 4": lambda: attn.causal_convolution(x, np.zeros((C, WIDTH)).T),
        r"\[merge_wkv4_states\] lengths has sequences 1": lambda: attn.merge_wkv4_states(
            x[:, :3], x[:, :3], decay, [1]
        ),
        r"\[merge_convolution_states\] second has shape": lambda: attn.merge_convolution_states(
            x[:, :3], x[:, :2], [1, 1]
        ),
        "a length is -1": lambda: attn.merge_convolution_states(x[:, :3], x[:, :3], [1, -1]),
        r"\[merge_scan_states\] elapsed is float32, must be float64": lambda: (
            attn.merge_scan_states(x[:, :N], x[:, :N], a, np.zeros((B, C), np.float32))
        ),
        r"elapsed has shape \[1, 1, 1, 6\]": lambda: attn.merge_scan_states(
            x[:, :N], x[:, :N], a, np.zeros((1, C))
        ),
    }.items():
        with pytest.raises(ValueError, match=says):
            call()
    with pytest.raises(TypeError, match="x is a list"):
        attn.causal_convolution([1.0], weight)


def test_mistakes_of_gradients():
    x, weight = np.zeros((B, L, C)), np.zeros((WIDTH, C))
    a, b = np.zeros((N, C)), np.zeros((B, L, N))
    with pytest.raises(ValueError, match="wrt holds 'z', must be among x, weight, bias, state"):
        attn.causal_convolution_backward(x, weight, x, wrt=["z"])
    with pytest.raises(ValueError, match=r"\[causal_convolution_backward\] d_out has shape"):
        attn.causal_convolution_backward(x, weight, x[:, 1:])
    with pytest.raises(ValueError, match="there is no z to have a gradient"):
        attn.selective_scan_backward(x, x, a, b, b, x, wrt=["z"])
    with pytest.raises(ValueError, match=r"\[selective_scan_backward\] d_state has shape"):
        attn.selective_scan_backward(x, x, a, b, b, x, d_state=x)
    with pytest.raises(ValueError, match=r"\[wkv4_backward\] d_out is float32, must be float64"):
        attn.wkv4_backward(x, x, x[0, 0], x[0, 0], x.astype(np.float32))
