"""PyTorch tensors in and out by DLPack, without copies."""

import attn
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")


def tensors(dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(2, 4, 33, 16, generator=g, dtype=dtype) for _ in range(3)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_in_torch_out(dtype):
    q, k, v = tensors(dtype)
    out, lse = attn.attention(q, k, v, mask=attn.Mask.causal(), return_lse=True)
    assert isinstance(out, torch.Tensor) and out.dtype == dtype and out.is_contiguous()
    assert isinstance(lse, torch.Tensor) and lse.shape == (2, 4, 33)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(out, expected, atol=2e-6 if dtype == torch.float32 else 1e-13, rtol=0)
    out += 1  # writable, and ours alone
    assert isinstance(attn.reference.attention(q, k, v), torch.Tensor)
    assert isinstance(attn.rope(q), torch.Tensor)


def test_views_are_read_in_place():
    qkv = torch.randn(2, 33, 3, 4, 16)  # [B, L, 3, H, D], as one projection writes it
    q, k, v = (qkv[:, :, i].transpose(1, 2) for i in range(3))
    out = attn.attention(q, k, v)
    same = attn.attention(*(x.contiguous() for x in (q, k, v)))
    assert torch.equal(out, same)
    shared = attn.attention(q, k[:, :1].expand(2, 4, 33, 16), v[:, :1].expand(2, 4, 33, 16))
    assert torch.equal(shared, attn.attention(q, k[:, :1], v[:, :1]))


def test_large_inputs_are_not_copied():
    # 256 MB of keys and values behind stride 0, were they ever made whole.
    import resource

    q = torch.zeros(1, 1, 1, 64)
    k = torch.zeros(1, 1, 1, 64).expand(1, 1, 1 << 20, 64)
    attn.attention(q, k[:, :, :64], k[:, :, :64])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    attn.attention(q, k, k)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_the_result_outlives_its_inputs():
    q, k, v = tensors()
    expected = attn.attention(q.numpy(), k.numpy(), v.numpy())
    out = attn.attention(q, k, v)
    del q, k, v
    np.testing.assert_array_equal(out.numpy(), expected)


def test_masks_and_biases_from_torch():
    q, k, v = tensors()
    keep = torch.rand(33, 33) < 0.5
    bias = torch.randn(4, 33, 33)
    out = attn.attention(q, k, v, mask=attn.Mask.dense(keep), score=attn.Score(bias=bias))
    whole = bias.masked_fill(~keep, float("-inf"))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=whole)
    torch.testing.assert_close(out, torch.nan_to_num(expected), atol=2e-6, rtol=0)
    lengths = torch.tensor([20, 33])
    padded = attn.attention(q, k, v, mask=attn.Mask.padding(lengths))
    torch.testing.assert_close(padded[1], attn.attention(q, k, v)[1], atol=0, rtol=0)


def test_mistakes_say_what_to_do():
    q, k, v = tensors()
    with pytest.raises(ValueError, match=r"q requires gradients.*detach\(\)"):
        attn.attention(q.requires_grad_(), k, v)
    q = q.detach()
    with pytest.raises(ValueError, match="k is bfloat16"):
        attn.attention(q, k.bfloat16(), v)
    with pytest.raises(ValueError, match="stride"):
        attn.attention(q, k.transpose(2, 3).contiguous().transpose(2, 3), v)
