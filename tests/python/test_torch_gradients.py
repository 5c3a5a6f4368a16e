"""Gradients and dropout of attn.torch.scaled_dot_product_attention against PyTorch's own."""

import math

import attn
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

theirs = torch.nn.functional.scaled_dot_product_attention


def ours(*args, **kwargs):
    return attn.torch.scaled_dot_product_attention(*args, **kwargs)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def random(*shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=torch.float64).to(dtype)


def gradients(function, inputs, d_out, **options):
    """Of `inputs`, a dict; attn_mask among them may need one too."""
    leaves = {name: x.detach().clone().requires_grad_() for name, x in inputs.items()}
    q, k, v = (leaves[name] for name in "qkv")
    if "attn_mask" in leaves:
        options["attn_mask"] = leaves["attn_mask"]
    out = function(q, k, v, **options)
    out.backward(d_out)
    return out, {name: x.grad for name, x in leaves.items()}


BOUND = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def compare(inputs, dtype=torch.float32, **options):
    """Against PyTorch's gradients in float64, of what the inputs are in their own type."""
    inputs = {name: x.to(dtype) for name, x in inputs.items()}
    wide = {name: x.double() for name, x in inputs.items()}
    if options.get("attn_mask") is not None and options["attn_mask"].dtype.is_floating_point:
        wide_options = {**options, "attn_mask": options["attn_mask"].double()}
    else:
        wide_options = options
    shape = ours(*(inputs[name] for name in "qkv"), **options).shape
    d_out = random(*shape, dtype=dtype)
    _, expected = gradients(theirs, wide, d_out.double(), **wide_options)
    _, given = gradients(ours, inputs, d_out, **options)
    for name in inputs:
        assert given[name].dtype == dtype and given[name].shape == inputs[name].shape
        assert not given[name].isnan().any(), name
        error = (given[name].double() - expected[name].nan_to_num()).abs()
        scale = max(1, expected[name].nan_to_num().abs().max().item() if error.numel() else 1)
        assert error.numel() == 0 or error.max() <= BOUND[dtype] * scale, name


SHAPES = [
    # query, key, value
    ((2, 4, 33, 16), (2, 4, 40, 16), (2, 4, 40, 24)),
    ((1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1)),
    ((1, 3, 1, 65), (1, 3, 301, 65), (1, 3, 301, 65)),
    ((4, 33, 16), (4, 40, 16), (4, 40, 16)),
    ((33, 16), (40, 16), (40, 8)),
    ((2, 3, 4, 9, 8), (2, 3, 4, 11, 8), (2, 3, 4, 11, 8)),
    ((2, 8, 9, 8), (1, 8, 9, 8), (1, 8, 9, 8)),
    ((2, 8, 9, 8), (2, 1, 9, 8), (2, 1, 9, 8)),
    ((2, 4, 0, 8), (2, 4, 9, 8), (2, 4, 9, 8)),
]


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"scale": 0.3}], ids=str)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_shapes(shapes, options):
    compare(dict(zip("qkv", (random(*s) for s in shapes))), **options)


@pytest.mark.parametrize("dtype", BOUND, ids=str)
def test_types(dtype):
    inputs = {name: random(2, 4, 33, 16) for name in "qkv"}
    compare(inputs, dtype, is_causal=True)
    compare({**inputs, "attn_mask": random(4, 33, 33)}, dtype)


@pytest.mark.parametrize("heads", [(8, 2, 2), (8, 1, 1), (14, 2, 2), (8, 2, 4)], ids=str)
def test_grouped_heads(heads):
    compare(dict(zip("qkv", (random(2, h, 19, 16) for h in heads))), enable_gqa=True)


MASK_SHAPES = [(33, 40), (1, 40), (33, 1), (4, 33, 40), (2, 1, 1, 40), (2, 4, 33, 40), (1, 4, 1, 1)]


@pytest.mark.parametrize("shape", MASK_SHAPES, ids=str)
def test_masks_that_need_a_gradient(shape):
    inputs = dict(zip("qkv", (random(2, 4, n, 16) for n in (33, 40, 40))))
    compare({**inputs, "attn_mask": random(*shape)})
    hidden = torch.rand(shape) < 0.3
    compare({**inputs, "attn_mask": random(*shape).masked_fill(hidden, -math.inf)})
    compare(inputs, attn_mask=random(*shape))
    compare(inputs, attn_mask=torch.rand(shape) < 0.7)


def test_views_and_expanded_gradients():
    """One projection's three views; the gradient of a sum, whose strides are all 0."""
    qkv = random(2, 33, 3, 4, 16)
    results = []
    for function in (theirs, ours):
        leaf = qkv.clone().requires_grad_()
        q, k, v = (leaf[:, :, i].transpose(1, 2) for i in range(3))
        function(q, k, v, is_causal=True).sum().backward()
        results.append(leaf.grad)
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"enable_gqa": True}], ids=str)
def test_gradcheck(options):
    q = random(2, 4, 5, 3, dtype=torch.float64).requires_grad_()
    kv_heads = 2 if options.get("enable_gqa") else 4
    k, v = (random(2, kv_heads, 7, 3, dtype=torch.float64).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(lambda *x: ours(*x, **options), (q, k, v))


def test_gradcheck_of_a_mask_and_under_dropout():
    q, k, v = (random(1, 2, 5, 3, dtype=torch.float64).requires_grad_() for _ in range(3))
    mask = random(2, 1, 5, dtype=torch.float64).requires_grad_()

    def call(*x):
        torch.manual_seed(3)
        return ours(*x[:3], attn_mask=x[3], dropout_p=0.4)

    assert torch.autograd.gradcheck(call, (q, k, v, mask))


def test_autocast():
    """As PyTorch's own: all in its type, mixed inputs too; gradients in the inputs' types."""
    q, k, v = (random(2, 4, 17, 8) for _ in range(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        d_out = random(2, 4, 17, 8).bfloat16()
        out, given = gradients(ours, {"q": q, "k": k, "v": v.bfloat16()}, d_out)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), theirs(q, k, v), atol=2e-2, rtol=0)
    assert [given[name].dtype for name in "qkv"] == [torch.float32, torch.float32, torch.bfloat16]


def test_only_what_needs_a_gradient_gets_one():
    q, k, v = (random(1, 2, 9, 8) for _ in range(3))
    v.requires_grad_()
    ours(q, k, v).sum().backward()
    assert v.grad is not None and q.grad is None and k.grad is None
    with torch.no_grad():
        assert not ours(q, k, v).requires_grad


def test_second_derivatives_are_refused():
    q, k, v = (random(1, 2, 9, 8).requires_grad_() for _ in range(3))
    for loss in (ours(q, k, v).square().sum(), ours(q, k, v).sum()):
        (dq,) = torch.autograd.grad(loss, q, create_graph=True)
        assert dq.requires_grad
        with pytest.raises(RuntimeError, match="second derivatives of attention"):
            dq.square().sum().backward()


def test_hidden_values_reach_no_gradient():
    q, k, v = (random(1, 2, 9, 8) for _ in range(3))
    d_out = random(1, 2, 9, 8)
    d_out[:, :, 6:] = 0
    q[:, :, 6:] = 0
    _, clean = gradients(ours, {"q": q, "k": k, "v": v}, d_out, is_causal=True)
    k[:, :, 6:] = v[:, :, 6:] = 1e30
    _, given = gradients(ours, {"q": q, "k": k, "v": v}, d_out, is_causal=True)
    for name in "qkv":
        assert torch.equal(given[name][:, :, :6], clean[name][:, :, :6]), name


def test_a_layer_learns():
    """Gradient descent on projections around attention reaches the same loss as with PyTorch's."""
    losses = []
    for function in (theirs, ours):
        torch.manual_seed(1)
        layer = torch.nn.Linear(16, 48)
        x, target = torch.randn(2, 12, 16), torch.randn(2, 12, 16)
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
        for _ in range(30):
            q, k, v = layer(x).view(2, 12, 3, 2, 8).permute(2, 0, 3, 1, 4)
            out = function(q, k, v, is_causal=True).transpose(1, 2).reshape(2, 12, 16)
            loss = (out - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert abs(losses[0] - losses[1]) < 1e-4


def dropout_weights(p, length=256):
    """What multiplies the values, read off by values that are the unit vectors."""
    q = k = torch.zeros(2, 3, length, 8)
    v = torch.eye(length).expand(2, 3, length, length)
    return ours(q, k, v, dropout_p=p)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_statistics(p):
    weights = dropout_weights(p)
    n = weights.numel()
    dropped = (weights == 0).double().mean().item()
    assert abs(dropped - p) < 5 * math.sqrt(p * (1 - p) / n) + 1 / 65536
    kept = weights[weights != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / 256 / (1 - p)), rtol=2e-4, atol=0)
    # Neither rows, columns, heads nor batch entries share a pattern.
    pattern = (weights == 0).double()
    neighbours = [
        (pattern[0], pattern[1]),
        (pattern[:, 0], pattern[:, 1]),
        (pattern[..., 1:, :], pattern[..., :-1, :]),
        (pattern[..., 1:], pattern[..., :-1]),
    ]
    for a, b in neighbours:
        both = (a * b).mean().item()
        assert abs(both - p * p) < 5 * math.sqrt(p * p * (1 - p * p) / a.numel()) + 1e-4


def test_dropout_comes_from_pytorchs_generator():
    q, k, v = (random(2, 3, 17, 8) for _ in range(3))
    torch.manual_seed(7)
    first, second = ours(q, k, v, dropout_p=0.3), ours(q, k, v, dropout_p=0.3)
    assert not torch.equal(first, second)
    torch.manual_seed(7)
    assert torch.equal(ours(q, k, v, dropout_p=0.3), first)
    with torch.no_grad():
        torch.manual_seed(7)
        assert torch.equal(ours(q, k, v, dropout_p=0.3), first)
    state = torch.get_rng_state()
    ours(q, k, v)
    assert torch.equal(torch.get_rng_state(), state)  # without dropout nothing is drawn


def test_dropout_is_the_same_forward_and_backward():
    """dV holds the weights that the forward pass used."""
    q, k = (random(1, 2, 40, 8) for _ in range(2))
    v = torch.eye(40).expand(1, 2, 40, 40).clone().requires_grad_()
    out = ours(q, k, v, dropout_p=0.4)
    d_out = random(1, 2, 40, 40)
    out.backward(d_out)
    torch.testing.assert_close(v.grad, out.detach().mT @ d_out, atol=1e-5, rtol=1e-5)


def test_checkpointing_draws_the_same_dropout():
    from torch.utils.checkpoint import checkpoint

    results = []
    for wrap in (False, True):
        torch.manual_seed(5)
        q = torch.ones(1, 2, 30, 8, requires_grad=True)
        k = torch.arange(480.0).view(1, 2, 30, 8).div(480).requires_grad_()
        call = lambda a, b: ours(a, b, b, dropout_p=0.5)  # noqa: E731
        out = checkpoint(call, q, k, use_reentrant=False) if wrap else call(q, k)
        out.square().sum().backward()
        results.append((out.detach(), q.grad, k.grad))
    for plain, again in zip(*results):
        assert torch.equal(plain, again)


def test_sinks():
    """One logit a head in the denominator, and its gradient."""
    from attn.torch._autograd import attend
    from attn.torch._call import Call

    inputs = [random(2, 4, 9, 8, dtype=torch.float64).requires_grad_() for _ in range(3)]
    sinks = torch.tensor([0.5, -1.0, 0.25, 2.0], dtype=torch.float64, requires_grad=True)
    d_out = random(2, 4, 9, 8, dtype=torch.float64)

    def plain(q, k, v):
        scores = q @ k.mT / math.sqrt(8)
        logits = torch.cat([scores, sinks.view(1, 4, 1, 1).expand(2, 4, 9, 1)], -1)
        return logits.softmax(-1)[..., :-1] @ v

    expected = torch.autograd.grad(plain(*inputs), (*inputs, sinks), d_out)
    given = torch.autograd.grad(attend(Call(), *inputs, sinks=sinks), (*inputs, sinks), d_out)
    for a, b in zip(given, expected):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)
