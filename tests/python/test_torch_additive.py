"""attn.torch.additive: PyTorch's own formula and its autograd."""

import attn
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import attn.torch  # noqa: E402


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
    d_out = torch.randn_like(out)
    for a, b in zip(torch.autograd.grad(out, inputs, d_out), torch.autograd.grad(expected, inputs, d_out)):
        torch.testing.assert_close(a, b, atol=bound, rtol=0)


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
