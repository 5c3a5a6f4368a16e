"""attn.torch.causal_convolution, selective_scan and wkv4 against loops in PyTorch, with gradients."""

import attn
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch_gradients import expect_same_gradients  # noqa: E402

F = torch.nn.functional
B, L, C, N, WIDTH = 2, 7, 6, 3, 4


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def convolution_by_hand(x, weight, bias=None, silu=False, state=None):
    if state is None:
        state = x.new_zeros(x.shape[0], weight.shape[0] - 1, x.shape[2])
    whole = torch.cat([state, x], 1)
    out = F.conv1d(whole.mT, weight.T[:, None], bias, groups=x.shape[2]).mT
    return F.silu(out) if silu else out, whole[:, x.shape[1] :]


def scan_by_hand(u, delta, a, b, c, d=None, z=None, delta_bias=None, softplus=False, state=None):
    step = delta if delta_bias is None else delta + delta_bias
    step = F.softplus(step) if softplus else step
    b, c = (
        x.unsqueeze(2).expand(-1, -1, C, -1)
        if x.dim() == 3
        else x.repeat_interleave(C // x.shape[2], 2)
        for x in (b, c)
    )
    h = u.new_zeros(B, *a.shape) if state is None else state
    out = []
    for t in range(u.shape[1]):
        s = step[:, t, None]
        h = torch.exp(s * a) * h + s * b[:, t].mT * u[:, t, None]
        y = (c[:, t].mT * h).sum(1)
        y = y if d is None else y + d * u[:, t]
        out.append(y if z is None else y * F.silu(z[:, t]))
    return torch.stack(out, 1), h


def wkv4_by_hand(k, v, decay, bonus, state=None):
    """With the state as it is kept: sums p e^o and q e^o."""
    if state is None:
        p = q = k.new_zeros(B, C)
        o = k.new_full((B, C), -1e38)
    else:
        p, q, o = state.unbind(1)
    out = []
    for t in range(k.shape[1]):
        now, value = k[:, t], v[:, t]
        top = torch.maximum(o, bonus + now)
        past, own = torch.exp(o - top), torch.exp(bonus + now - top)
        out.append((past * p + own * value) / (past * q + own))
        top = torch.maximum(o + decay, now)
        past, own = torch.exp(o + decay - top), torch.exp(now - top)
        p, q, o = past * p + own * value, past * q + own, top
    return torch.stack(out, 1), torch.stack([p, q, o], 1)


SCAN = {"u": (B, L, C), "delta": (B, L, C), "a": (N, C), "b": (B, L, N), "c": (B, L, N)}
WKV4 = {"k": (B, L, C), "v": (B, L, C), "decay": (C,), "bonus": (C,)}
# (ours, the loop, shapes of leaves, options)
PROBLEMS = {
    "convolution": (
        attn.torch.causal_convolution,
        convolution_by_hand,
        {"x": (B, L, C), "weight": (WIDTH, C), "bias": (C,), "state": (B, WIDTH - 1, C)},
        {"silu": True},
    ),
    "plain convolution": (
        attn.torch.causal_convolution,
        convolution_by_hand,
        {"x": (B, L, C), "weight": (2, C)},
        {},
    ),
    "scan": (
        attn.torch.selective_scan,
        scan_by_hand,
        {**SCAN, "d": (C,), "z": (B, L, C), "delta_bias": (C,), "state": (B, N, C)},
        {"softplus": True},
    ),
    "scan in groups": (
        attn.torch.selective_scan,
        scan_by_hand,
        {**SCAN, "b": (B, L, 2, N), "c": (B, L, 2, N)},
        {},
    ),
    "wkv4": (attn.torch.wkv4, wkv4_by_hand, {**WKV4, "state": (B, 3, C)}, {}),
    "fresh wkv4": (attn.torch.wkv4, wkv4_by_hand, WKV4, {}),
}
every_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=list(PROBLEMS))


def leaves_of(shapes):
    return [torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in shapes.values()]


def make(shapes, leaves):
    """Arguments of leaves: decays below 0, steps and weights of a state above."""
    x = dict(zip(shapes, leaves))
    if "delta" in x:
        x["delta"] = x["delta"].exp()
    for decay in ("a", "decay"):
        if decay in x:
            x[decay] = -x[decay].exp()
    if "k" in x and "state" in x:
        p, q, o = x["state"].unbind(1)
        x["state"] = torch.stack([p, q.exp(), o], 1)
    return x


@every_problem
def test_values_and_gradients_are_those_of_a_loop(problem):
    function, by_hand, shapes, options = problem
    leaves = leaves_of(shapes)
    ours = function(**make(shapes, leaves), **options, return_state=True)
    theirs = by_hand(**make(shapes, leaves), **options)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, atol=1e-13, rtol=1e-13)
    assert torch.equal(function(**make(shapes, leaves), **options), ours[0])
    expect_same_gradients(ours, theirs, leaves, 1e-12)


@every_problem
def test_gradcheck(problem):
    function, _, shapes, options = problem
    leaves = leaves_of(shapes)
    both = lambda *x: function(**make(shapes, x), **options, return_state=True)  # noqa: E731
    assert torch.autograd.gradcheck(both, leaves)
    assert torch.autograd.gradcheck(lambda *x: function(**make(shapes, x), **options), leaves)
    offsets = [0, 3, 3, L]
    shapes = {n: (1, *s[1:]) if len(s) > 2 else s for n, s in shapes.items() if n != "state"}
    packed = lambda *x: function(  # noqa: E731
        **make(shapes, x), **options, offsets=offsets, return_state=True
    )
    assert torch.autograd.gradcheck(packed, leaves_of(shapes))


@every_problem
def test_float32_and_16_bits(problem):
    function, by_hand, shapes, options = problem
    leaves = leaves_of(shapes)
    exact, _ = by_hand(**make(shapes, leaves), **options)
    single = [x.detach().float().requires_grad_() for x in leaves]
    out = function(**make(shapes, single), **options)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), exact, atol=2e-5, rtol=1e-5)
    # What comes by tokens in 16 bits, all else in float32.
    half = {n: x.detach().float() for n, x in make(shapes, leaves).items()}
    tokens = [n for n, s in shapes.items() if len(s) > 2 and n not in ("delta", "state")]
    half |= {n: half[n].bfloat16() for n in tokens}
    for x in half.values():
        x.requires_grad_()
    out, state = function(**half, **options, return_state=True)
    assert out.dtype == torch.bfloat16 and state.dtype == torch.float32
    rounded = {n: x.detach().float() for n, x in half.items()}
    assert torch.equal(out, function(**rounded, **options).bfloat16())
    (out.float().sum() + state.sum()).backward()
    for x in half.values():
        assert x.grad.dtype == x.dtype and x.grad.isfinite().all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert function(**rounded, **options).dtype == torch.bfloat16


def test_a_layer_of_mamba_learns():
    """The same losses as with loops over tokens."""
    losses = []
    for convolve, scan in (
        (lambda *x, **o: convolution_by_hand(*x, **o)[0], lambda *x, **o: scan_by_hand(*x, **o)[0]),
        (attn.torch.causal_convolution, attn.torch.selective_scan),
    ):
        torch.manual_seed(1)
        mix, project = torch.nn.Linear(5, 2 * C), torch.nn.Linear(C, C + 2 * N)
        conv = torch.nn.Conv1d(C, C, WIDTH, groups=C)
        a_log, d = torch.nn.Parameter(torch.zeros(C, N)), torch.nn.Parameter(torch.ones(C))
        x, target = torch.randn(B, 12, 5), torch.randn(B, 12, C)
        parameters = [a_log, d, *mix.parameters(), *project.parameters(), *conv.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=0.02)
        losses.append([])
        for _ in range(10):
            u, z = mix(x).chunk(2, -1)
            u = convolve(u, conv.weight[:, 0].T, conv.bias, silu=True)
            delta, b, c = project(u).split([C, N, N], -1)
            out = scan(u, delta, -a_log.exp().T, b, c, d, z, softplus=True)
            loss = (out - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert losses[1][-1] < losses[1][0]


def test_empty_length():
    x, state = torch.zeros(B, 0, C), torch.randn(B, 3, C, requires_grad=True)
    decay = torch.full((C,), -1.0, requires_grad=True)
    a, b = torch.full((N, C), -1.0), torch.zeros(B, 0, N)
    for out, last in (
        attn.torch.causal_convolution(x, torch.ones(WIDTH, C), state=state, return_state=True),
        attn.torch.selective_scan(x, x, a, b, b, z=x, state=state, return_state=True),
        attn.torch.wkv4(x, x, decay, decay, state=state, return_state=True),
    ):
        assert out.shape == x.shape and torch.equal(last, state)
        state.grad = None
        last.sum().backward()
        torch.testing.assert_close(state.grad, torch.ones_like(state))
    assert torch.equal(decay.grad, torch.zeros(C))


def test_mistakes():
    k, decay = torch.randn(B, L, C), -torch.ones(C)
    with pytest.raises(TypeError, match=r"\[wkv4\] v is a list, must be a torch.Tensor"):
        attn.torch.wkv4(k, [1], decay, decay)
    with pytest.raises(ValueError, match=r"\[wkv4\] k is torch.float32, v is torch.float64"):
        attn.torch.wkv4(k, k.double(), decay, decay)
    with pytest.raises(ValueError, match="bonus has shape"):
        attn.torch.wkv4(k, k, decay, decay[1:])
    with pytest.raises(TypeError, match=r"\[selective_scan\] a is a float"):
        attn.torch.selective_scan(k, k, -1.0, k, k)
    k.requires_grad_()
    loss = attn.torch.wkv4(k, k, decay, decay).sum()
    (dk,) = torch.autograd.grad(loss, k, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives"):
        dk.square().sum().backward()
    with pytest.raises(NotImplementedError, match=r"\[wkv4\] torch.func's transforms"):
        torch.func.grad(lambda x: attn.torch.wkv4(x, x, decay, decay).sum())(k.detach())
