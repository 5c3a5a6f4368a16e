"""attn.torch.recurrent, linear_attention and mamba2 against plain PyTorch, with gradients."""

import attn
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch_gradients import expect_same_gradients  # noqa: E402

F = torch.nn.functional
B, HQ, H, L, DK, DV = 2, 1, 2, 7, 4, 3


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def leaf(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def by_hand(
    q, k, v, log_decay=None, beta=None, bonus=None, a=None, b=None, rule="add", state=None
):
    """A loop over tokens: (out, last state)."""
    q, k = (x.repeat_interleave(v.shape[1] // x.shape[1], 1) for x in (q, k))
    batch, heads, length, width = q.shape
    if state is None:
        state = torch.zeros(batch, heads, width, v.shape[-1], dtype=q.dtype)
    zero, one = torch.zeros((), dtype=q.dtype), torch.ones((), dtype=q.dtype)
    decay = (zero if log_decay is None else log_decay).expand(batch, heads, length, width).exp()
    beta = (one if beta is None else beta).expand(batch, heads, length, 1)
    out = []
    for t in range(length):
        kt, vt = k[:, :, t, :, None], v[:, :, t, None, :]
        if bonus is not None:
            now = bonus[None, :, :, None] * beta[:, :, t, None] * kt * vt
            out.append((q[:, :, t, None, :] @ (state + now))[:, :, 0])
        turned = a[:, :, t, :, None] * (b[:, :, t, None] @ state) if a is not None else zero
        state = decay[:, :, t, :, None] * state + turned
        held = kt.mT @ state if rule == "delta" else zero
        state = state + beta[:, :, t, None] * kt * (vt - held)
        if bonus is None:
            out.append((q[:, :, t, None, :] @ state)[:, :, 0])
    return torch.stack(out, 2), state


def gates(rule="add", **shapes):
    """Leaves, and what is made of them: decays below 0, beta in (0, 1), |k| = 1 for the delta rule."""
    names = {"q": (B, HQ, L, DK), "k": (B, HQ, L, DK), "v": (B, H, L, DV), **shapes}
    leaves = [leaf(*shape) for shape in names.values()]

    def make(leaves):
        x = dict(zip(names, leaves))
        if "log_decay" in x:
            x["log_decay"] = F.logsigmoid(x["log_decay"])
        if "beta" in x:
            x["beta"] = torch.sigmoid(x["beta"])
        if "a" in x:
            x["b"] = F.normalize(x["b"], dim=-1)
            x["a"] = -x["b"] * torch.sigmoid(x["a"])
        if rule == "delta":
            x["k"] = F.normalize(x["k"], dim=-1)
        return {**x, "rule": rule}

    return leaves, make


MECHANISMS = {
    "linear": {},
    "RetNet": {"log_decay": (1, H, 1, 1), "state": (B, H, DK, DV)},
    "RWKV-5": {"log_decay": (1, H, 1, DK), "bonus": (H, DK)},
    "RWKV-6": {"log_decay": (B, H, L, DK), "bonus": (H, DK), "state": (B, H, DK, DV)},
    "RWKV-7": {"log_decay": (B, HQ, L, DK), "a": (B, HQ, L, DK), "b": (B, HQ, L, DK)},
    "GLA": {"log_decay": (B, H, L, DK), "state": (B, H, DK, DV)},
    "gated DeltaNet": {
        "rule": "delta",
        "log_decay": (B, H, L, 1),
        "beta": (B, H, L, 1),
        "state": (B, H, DK, DV),
    },
}
every_mechanism = pytest.mark.parametrize("parts", MECHANISMS.values(), ids=list(MECHANISMS))


@every_mechanism
def test_values_and_gradients_are_those_of_a_loop(parts):
    leaves, make = gates(**parts)
    ours = attn.torch.recurrent(**make(leaves), return_state=True)
    theirs = by_hand(**make(leaves))
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)
    expect_same_gradients(ours, theirs, leaves, 1e-11)


@every_mechanism
def test_gradcheck(parts):
    leaves, make = gates(**parts)
    both = lambda *x: attn.torch.recurrent(**make(x), return_state=True)  # noqa: E731
    assert torch.autograd.gradcheck(both, leaves)
    assert torch.autograd.gradcheck(lambda *x: attn.torch.recurrent(**make(x)), leaves)


def test_ragged_sequences():
    q, k, v = leaf(1, HQ, L, DK), leaf(1, HQ, L, DK), leaf(1, H, L, DV)
    offsets = [0, 3, 3, L]
    packed = lambda *x: attn.torch.recurrent(*x, offsets=offsets, return_state=True)  # noqa: E731
    assert torch.autograd.gradcheck(packed, (q, k, v))
    out, states = packed(q, k, v)
    torch.testing.assert_close(out[:, :, 3:], by_hand(*(x[:, :, 3:] for x in (q, k, v)))[0])
    assert states.shape == (3, H, DK, DV)


def test_normalised():
    leaves = [leaf(B, H, L, DK), leaf(B, H, L, DK), leaf(B, H, L, DV)]
    run = lambda q, k, v: attn.torch.recurrent(  # noqa: E731
        q.exp(), k.exp(), v, normalise=True, epsilon=0.5
    )
    assert torch.autograd.gradcheck(run, leaves)


FEATURES = attn.RandomFeatures(DK, 8, seed=2)
MAPS = {
    "elu": {},
    "relu": {"map": "relu", "epsilon": 0.5},
    "identity": {"map": "identity", "normalise": False},
    "favor": {"map": "favor", "features": FEATURES},
}


def phi(x, map="elu", features=None, **options):
    if map == "favor":
        x = x / x.shape[-1] ** 0.25
        w = torch.from_numpy(features.directions).to(x.dtype)
        return torch.exp(x @ w.T - x.square().sum(-1, keepdim=True) / 2) / len(w) ** 0.5
    return {"elu": lambda: F.elu(x) + 1, "relu": x.relu, "identity": lambda: x}[map]()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("options", MAPS.values(), ids=list(MAPS))
def test_linear_attention(options, causal):
    leaves = [leaf(B, HQ, L, DK), leaf(B, HQ, L, DK), leaf(B, H, L, DV)]

    def theirs(q, k, v):
        weights = phi(q, **options) @ phi(k, **options).mT
        weights = weights.tril() if causal else weights
        if not options.get("normalise", True):
            return weights @ v
        return weights @ v / (weights.sum(-1, keepdim=True) + options.get("epsilon", 0))

    ours = lambda *x: attn.torch.linear_attention(*x, causal=causal, **options)  # noqa: E731
    out, expected = ours(*leaves), theirs(*leaves)
    torch.testing.assert_close(out, expected, atol=1e-11, rtol=1e-11)
    expect_same_gradients([out], [expected], leaves, 1e-10)
    assert torch.autograd.gradcheck(ours, leaves)


def space():
    """Leaves of mamba2: x, dt, a (before -exp), b, c, d, dt_bias, state."""
    shapes = (B, H, L, DV), (B, H, L), (H,), (B, HQ, L, DK), (B, HQ, L, DK), (H,), (H,)
    return [leaf(*s) for s in (*shapes, (B, H, DK, DV))]


def test_mamba2():
    leaves = space()

    def theirs(x, dt, a, b, c, d, dt_bias, state):
        step = F.softplus(dt + dt_bias[:, None]).clamp(0.3, 1.5)[..., None]
        out, last = by_hand(c, b, x, step * -a.exp()[:, None, None], step, state=state)
        return out + d[:, None, None] * x, last

    def ours(x, dt, a, b, c, d, dt_bias, state):
        limits = {"dt_limits": (0.3, 1.5), "return_state": True}
        return attn.torch.mamba2(x, dt, -a.exp(), b, c, d, dt_bias, state=state, **limits)

    mine, expected = ours(*leaves), theirs(*leaves)
    for a, b in zip(mine, expected):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)
    expect_same_gradients(mine, expected, leaves, 1e-11)
    # No step stands at a limit, where there is no derivative.
    assert torch.autograd.gradcheck(ours, leaves)
    x, dt, a, b, c, *_ = leaves
    plain = lambda *x: attn.torch.mamba2(*x, softplus=False)  # noqa: E731
    assert torch.autograd.gradcheck(plain, (x, dt.detach().abs().requires_grad_(), a, b, c))


def test_float32_and_16_bits():
    q, k, v = (torch.randn(B, H, 100, 16) for _ in range(3))
    log_decay = F.logsigmoid(torch.randn(B, H, 100, 16))
    exact = attn.torch.recurrent(*(x.double() for x in (q, k, v, log_decay)))
    torch.testing.assert_close(
        attn.torch.recurrent(q, k, v, log_decay).double(), exact, atol=1e-4, rtol=1e-5
    )
    half = [x.bfloat16().requires_grad_() for x in (q, k, v)]
    log_decay.requires_grad_()
    out, state = attn.torch.recurrent(*half, log_decay, return_state=True)
    assert out.dtype == torch.bfloat16 and state.dtype == torch.float32
    (out.float().sum() + state.sum()).backward()
    assert half[0].grad.dtype == torch.bfloat16 and log_decay.grad.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert attn.torch.recurrent(q, half[1], v).dtype == torch.bfloat16


def test_views_are_read_in_place_and_expanded_gradients_are_taken():
    qkv = torch.randn(2, 33, 3, 4, 16, requires_grad=True)  # as one projection writes it
    q, k, v = (qkv[:, :, i].transpose(1, 2) for i in range(3))
    out = attn.torch.recurrent(q, k, v)
    assert torch.equal(out, attn.torch.recurrent(*(x.contiguous() for x in (q, k, v))))
    out.sum().backward()
    assert qkv.grad.isfinite().all()
    decay = torch.tensor(-0.1).expand(1, 1, 1, 16)
    assert torch.equal(
        attn.torch.recurrent(q, k, v, decay), attn.torch.recurrent(q, k, v, decay[..., :1])
    )


def test_empty_length():
    q, v = leaf(B, H, 0, DK), leaf(B, H, 0, DV)
    decay, state = leaf(B, H, 0, DK), leaf(B, H, DK, DV)
    out, last = attn.torch.recurrent(q, q, v, decay, state=state, return_state=True)
    last.sum().backward()
    assert out.shape == (B, H, 0, DV) and torch.equal(last, state)
    assert torch.equal(state.grad, torch.ones_like(state)) and decay.grad.shape == decay.shape
    assert attn.torch.linear_attention(q, q, v).shape == (B, H, 0, DV)


def test_without_gradients_it_is_the_same():
    q, k, v = (torch.randn(1, 2, 33, 8, requires_grad=True) for _ in range(3))
    with_gradients = attn.torch.recurrent(q, k, v, return_state=True)
    with torch.no_grad():
        without = attn.torch.recurrent(q, k, v, return_state=True)
    for a, b in zip(with_gradients, without):
        assert torch.equal(a, b) and a.requires_grad and not b.requires_grad


def test_a_gated_layer_learns():
    """The same loss as with a loop over tokens."""
    losses = []
    for function in (lambda *x: by_hand(*x)[0], attn.torch.recurrent):
        torch.manual_seed(1)
        layer = torch.nn.Linear(8, 32)
        x, target = torch.randn(2, 12, 8), torch.randn(2, 12, 8)
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
        for _ in range(20):
            q, k, v, gate = layer(x).view(2, 12, 4, 2, 4).permute(2, 0, 3, 1, 4)
            out = function(q, k, v, F.logsigmoid(gate))
            loss = (out.transpose(1, 2).reshape(2, 12, 8) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert abs(losses[0] - losses[1]) < 1e-4


def test_mistakes():
    q = torch.randn(1, 2, 9, 8)
    with pytest.raises(TypeError, match=r"\[recurrent\] k is a list, must be a torch.Tensor"):
        attn.torch.recurrent(q, [1], q)
    with pytest.raises(ValueError, match=r"\[recurrent\] q is torch.float32, k is torch.float64"):
        attn.torch.recurrent(q, q.double(), q)
    with pytest.raises(ValueError, match="log_decay has shape"):
        attn.torch.recurrent(q, q, q, torch.zeros(1, 3, 1, 1))
    with pytest.raises(ValueError, match="v has shape"):
        attn.torch.linear_attention(q, q, q[:, :, 1:])
    q.requires_grad_()
    loss = attn.torch.recurrent(q, q, q).sum()
    (dq,) = torch.autograd.grad(loss, q, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives"):
        dq.square().sum().backward()
    with pytest.raises(NotImplementedError, match=r"\[recurrent\] torch.func's transforms"):
        torch.func.grad(lambda x: attn.torch.recurrent(x, x, x).sum())(q.detach())
