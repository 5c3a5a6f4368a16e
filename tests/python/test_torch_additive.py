"""attn.torch.additive, luong and luong_local: PyTorch's own formulas and their autograd."""

import attn
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import attn.torch  # noqa: E402
from torch_gradients import expect_same_gradients  # noqa: E402


def problem(dtype=torch.float64):
    torch.manual_seed(0)
    shapes = (2, 2, 5, 4), (2, 2, 9, 4), (2, 2, 9, 3), (2, 4)
    return [torch.randn(s, dtype=dtype, requires_grad=True) for s in shapes]


def plain(q, k, v, v_a):
    s = (v_a[:, None, None, :] * torch.tanh(q.unsqueeze(3) + k.unsqueeze(2))).sum(-1)
    causal = torch.arange(9)[None, :] <= torch.arange(5)[:, None] + 3
    return torch.softmax(s.masked_fill(~causal, -torch.inf), -1) @ v


def ours(q, k, v, v_a):
    return attn.torch.additive(q, k, v, v_a, mask=attn.Mask.causal(), query_start=3)


@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_output_and_gradients(dtype, bound):
    inputs = problem(dtype)
    out, expected = ours(*inputs), plain(*inputs)
    torch.testing.assert_close(out, expected, atol=bound, rtol=0)
    expect_same_gradients([out], [expected], inputs, bound)


def test_gradcheck():
    assert torch.autograd.gradcheck(ours, problem())


def test_half_precision_is_computed_in_float32():
    inputs = [x.detach().to(torch.bfloat16) for x in problem()]
    out = ours(*inputs)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), plain(*(x.double() for x in inputs)), atol=2e-2, rtol=0)


def test_second_derivatives_are_refused():
    inputs = problem()
    (g,) = torch.autograd.grad(ours(*inputs).sum(), inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives"):
        g.sum().backward()


WEIGHTS = {
    "dot": [],
    "general": [(4, 4)],
    "general of heads": [(2, 4, 4)],
    "concat": [(6, 8), (6,)],
    "concat of heads": [(2, 6, 8), (2, 6)],
}


def randoms(*shapes, dtype=torch.float64):
    torch.manual_seed(0)
    return [torch.randn(s, dtype=dtype, requires_grad=True) for s in shapes]


def luong_problem(weights):
    return randoms((2, 2, 5, 4), (2, 2, 9, 4), (2, 2, 9, 3), *weights)


def plain_luong(q, k, v, w=None, v_a=None):
    if v_a is not None:
        both = torch.cat([x.expand(2, 2, 5, 9, 4) for x in (q.unsqueeze(3), k.unsqueeze(2))], -1)
        w = w if w.dim() == 3 else w.expand(2, -1, -1)
        s = torch.einsum("bhqkd,hed->bhqke", both, w).tanh() @ v_a.expand(2, -1)[:, None, :, None]
        s = s[..., 0]
    else:
        s = q @ (k if w is None else k @ w.mT).mT
    return torch.softmax(s.masked_fill(torch.arange(9) >= 7, -torch.inf), -1) @ v


def our_luong(*x):
    return attn.torch.luong(*x, mask=attn.Mask.padding([7, 7]))


def local_problem(*more):
    return randoms((2, 2, 5, 4), (2, 2, 9, 4), (2, 2, 9, 3), (3, 4), (3,), *more)


def plain_local(q, k, v, w_p, v_p, w=None):
    s = q @ (k if w is None else k @ w.mT).mT
    place = 8 * torch.sigmoid(torch.tanh(q @ w_p.mT) @ v_p).unsqueeze(-1)
    away = torch.arange(9) - place
    hidden = (away.abs() > 2.5) | (torch.arange(9) >= 8)
    return torch.softmax(s.masked_fill(hidden, -torch.inf), -1) * (
        -(away**2) / (2 * 1.25**2)
    ).exp() @ v


def our_local(q, k, v, w_p, v_p, w=None):
    return attn.torch.luong_local(q, k, v, w_p, v_p, window=2.5, w=w, lengths=[8, 8])


LUONG = [(our_luong, plain_luong, luong_problem(shapes)) for shapes in WEIGHTS.values()]
LUONG += [(our_local, plain_local, local_problem(*more)) for more in ([], [(4, 4)])]
every_luong = pytest.mark.parametrize(
    "function, plain, inputs", LUONG, ids=[*WEIGHTS, "local dot", "local general"]
)


@every_luong
def test_luong(function, plain, inputs):
    out, expected = function(*inputs), plain(*inputs)
    torch.testing.assert_close(out, expected, atol=1e-13, rtol=0)
    expect_same_gradients([out], [expected], inputs, 1e-12)
    assert torch.autograd.gradcheck(function, inputs)
    half = [x.detach().bfloat16() for x in inputs]
    torch.testing.assert_close(function(*half), function(*(x.float() for x in half)).bfloat16())


def test_mistakes_name_the_function():
    q, k, v = (x.detach() for x in luong_problem([]))
    with pytest.raises(ValueError, match=r"\[luong\] key has 3 dimensions, must have 4"):
        attn.torch.luong(q, k[0], v)
    with pytest.raises(ValueError, match=r"\[luong_local\] .*w_p is torch.float32"):
        attn.torch.luong_local(q, k, v, torch.zeros(3, 4), torch.zeros(3))
    with pytest.raises(NotImplementedError, match=r"\[additive\] torch.func's transforms"):
        torch.func.grad(lambda x: attn.torch.additive(x, k, v, q[0, 0, 0]).sum())(q)
