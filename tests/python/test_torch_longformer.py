"""attn.torch.longformer_attention: values and gradients against PyTorch's own operations."""

import attn
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")


def plain(q, k, v, gq, gk, gv, window, tokens):
    place = torch.arange(q.shape[2])
    visible = (place[:, None] - place).abs() <= window
    visible[:, tokens] = True
    attend = torch.nn.functional.scaled_dot_product_attention
    out = attend(q, k, v, attn_mask=visible)
    return out.index_copy(2, torch.tensor(tokens), attend(gq, gk, gv))


@pytest.mark.parametrize("length, tokens", [(5, [0]), (67, [0, 30, 66])])
def test_gradients_of_all_six(length, tokens):
    torch.manual_seed(0)
    shapes = [(2, 3, length, 8)] * 3 + [(2, 3, len(tokens), 8)] + [(2, 3, length, 8)] * 2
    inputs = [torch.randn(*s, dtype=torch.float64) for s in shapes]
    results = []
    for function in (
        lambda *x: attn.torch.longformer_attention(*x, window=4, global_tokens=tokens),
        lambda *x: plain(*x, 4, tokens),
    ):
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = function(*leaves)
        (out * torch.cos(torch.arange(out.numel(), dtype=out.dtype)).reshape(out.shape)).sum().backward()
        results.append([out.detach()] + [x.grad for x in leaves])
    for got, expected in zip(*results):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_without_global_tokens():
    x = [torch.randn(1, 2, 30, 8, requires_grad=True) for _ in range(3)]
    out = attn.torch.longformer_attention(*x, window=3)
    expected = attn.torch.attention(*x, mask=attn.Mask.window(3, 3)).out
    assert torch.equal(out, expected)
