"""attn.torch.scaled_dot_product_attention against PyTorch's own."""

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


def compare(q, k, v, **options):
    """Equal within a few units in the last place of what float64 gives; hidden rows are 0."""
    out = ours(q, k, v, **options)
    mask = options.get("attn_mask")
    if mask is not None and mask.dtype.is_floating_point:
        options["attn_mask"] = mask.double()
    expected = theirs(q.double(), k.double(), v.double(), **options)
    assert out.shape == expected.shape and out.dtype == q.dtype
    assert not out.isnan().any()
    bound = {torch.float64: 1e-13, torch.float32: 4e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}
    error = (out.double() - expected.nan_to_num()).abs()
    assert error.numel() == 0 or error.max() <= bound[q.dtype]


SHAPES = [
    # query, key, value
    ((2, 4, 33, 16), (2, 4, 33, 16), (2, 4, 33, 16)),
    ((2, 4, 33, 16), (2, 4, 40, 16), (2, 4, 40, 24)),
    ((2, 4, 40, 16), (2, 4, 7, 16), (2, 4, 7, 3)),
    ((1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1)),
    ((1, 3, 1, 65), (1, 3, 301, 65), (1, 3, 301, 65)),
    ((4, 33, 16), (4, 40, 16), (4, 40, 16)),
    ((33, 16), (40, 16), (40, 8)),
    ((2, 3, 4, 9, 8), (2, 3, 4, 11, 8), (2, 3, 4, 11, 8)),
    ((2, 1, 3, 4, 9, 8), (2, 1, 3, 4, 11, 8), (2, 1, 3, 4, 11, 8)),
    ((2, 8, 9, 8), (1, 8, 9, 8), (1, 8, 9, 8)),
    ((2, 8, 9, 8), (2, 1, 9, 8), (2, 1, 9, 8)),
    ((2, 4, 0, 8), (2, 4, 9, 8), (2, 4, 9, 8)),
    ((2, 4, 3, 8), (2, 4, 0, 8), (2, 4, 0, 8)),
    ((0, 4, 3, 8), (0, 4, 5, 8), (0, 4, 5, 8)),
]


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"scale": 0.3}], ids=str)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_shapes(shapes, options):
    compare(*(random(*s) for s in shapes), **options)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_types(dtype):
    q, k, v = (random(2, 4, 33, 16, dtype=dtype) for _ in range(3))
    compare(q, k, v, is_causal=True)
    compare(q, k, v, attn_mask=random(2, 1, 33, 33, dtype=dtype))


@pytest.mark.parametrize("heads", [(8, 2, 2), (8, 1, 1), (7, 7, 7), (14, 2, 2), (8, 2, 4)], ids=str)
def test_grouped_heads(heads):
    q, k, v = (random(2, h, 19, 16) for h in heads)
    compare(q, k, v, enable_gqa=True)
    compare(q, k, v, enable_gqa=True, is_causal=True)


MASK_SHAPES = [(33, 40), (1, 40), (33, 1), (1, 33, 40), (4, 33, 40), (2, 1, 1, 40), (2, 4, 33, 40)]


@pytest.mark.parametrize("shape", MASK_SHAPES, ids=str)
def test_mask_shapes(shape):
    q, k, v = random(2, 4, 33, 16), random(2, 4, 40, 16), random(2, 4, 40, 16)
    compare(q, k, v, attn_mask=torch.rand(shape) < 0.5)
    compare(q, k, v, attn_mask=random(*shape))
    compare(q, k, v, attn_mask=random(*shape).masked_fill(torch.rand(shape) < 0.3, -math.inf))
    compare(q[0], k[0], v[0], attn_mask=random(*shape[-3:])[: 1 if len(shape) > 3 else None])


def test_masks_of_five_dimensions():
    q, k, v = (random(2, 3, 4, 9, 8) for _ in range(3))
    for shape in [(9, 9), (3, 1, 9, 9), (2, 1, 1, 9, 9), (2, 3, 4, 9, 9)]:
        compare(q, k, v, attn_mask=torch.rand(shape) < 0.7)
        compare(q, k, v, attn_mask=random(*shape))


def structured(q_len, k_len):
    """Masks that become structure."""
    i, j = torch.arange(q_len)[:, None], torch.arange(k_len)[None, :]
    shift = k_len - q_len
    lengths = torch.tensor([k_len, k_len // 2])[:, None, None, None]
    yield "causal", j <= i
    yield "bottom right", j <= i + shift
    yield "window", (j <= i + shift) & (j > i + shift - 5)
    yield "padding", (j < lengths).expand(2, 1, 1, k_len)
    yield "left padding", (j >= k_len - lengths).expand(2, 1, 1, k_len)
    yield "causal padding", (j <= i + shift) & (j < lengths)
    yield "causal left padding", (j <= i + shift) & (j >= k_len - lengths)


@pytest.mark.parametrize("lengths", [(33, 33), (7, 40), (1, 40), (300, 300)], ids=str)
def test_structured_masks(lengths):
    q_len, k_len = lengths
    q, k, v = random(2, 4, q_len, 16), random(2, 4, k_len, 16), random(2, 4, k_len, 16)
    for name, mask in structured(q_len, k_len):
        assert "dense" not in str(attn.Mask.recognize(mask.reshape(-1, 1, *mask.shape[-2:]))[0]), name
        compare(q, k, v, attn_mask=mask)
        added = torch.zeros(mask.shape).masked_fill(~mask, -math.inf)
        compare(q, k, v, attn_mask=added)
        same = ours(q, k, v, attn_mask=mask)
        lowest = added.clamp(min=torch.finfo(torch.float32).min)
        assert torch.equal(ours(q, k, v, attn_mask=lowest), same), name
        assert torch.equal(ours(q, k, v, attn_mask=added), same), name


def test_the_lowest_numbers_hide():
    """... whatever else a mask adds; real rows equal PyTorch's, rows of them alone are 0."""
    q, k, v = (random(1, 2, 9, 8) for _ in range(3))
    mask = random(9, 9)
    mask[:, 5:] = torch.finfo(torch.float32).min
    mask[4] = torch.finfo(torch.float32).min * 0.6
    out, expected = ours(q, k, v, attn_mask=mask), theirs(q, k, v, attn_mask=mask)
    rows = [i for i in range(9) if i != 4]
    torch.testing.assert_close(out[:, :, rows], expected[:, :, rows], atol=2e-6, rtol=0)
    assert (out[:, :, 4] == 0).all()


def test_hidden_values_reach_nothing():
    q, k, v = (random(1, 2, 9, 8) for _ in range(3))
    clean = ours(q, k, v, is_causal=True)
    k[:, :, 6:] = v[:, :, 6:] = math.nan
    assert torch.equal(ours(q, k, v, is_causal=True)[:, :, :6], clean[:, :, :6])


def test_views_are_read_in_place():
    qkv = random(2, 33, 3, 4, 16)  # [B, L, 3, H, D], as one projection writes it
    q, k, v = (qkv[:, :, i].transpose(1, 2) for i in range(3))
    same = ours(*(x.contiguous() for x in (q, k, v)))
    assert torch.equal(ours(q, k, v), same)
    crossed = k.transpose(2, 3).contiguous().transpose(2, 3)  # copied, as it must be
    assert torch.equal(ours(q, crossed, v), same)


def test_large_views_are_not_copied():
    import resource

    q = torch.zeros(1, 1, 1, 64)
    k = torch.zeros(1, 1, 1, 64).expand(1, 1, 1 << 20, 64)
    ours(q, k[:, :, :64], k[:, :, :64])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours(q, k, k)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_mistakes_say_what_to_do():
    q, k, v = (random(2, 4, 9, 8) for _ in range(3))
    mask = torch.ones(9, 9, dtype=torch.bool)
    with pytest.raises(ValueError, match="give one"):
        ours(q, k, v, attn_mask=mask, is_causal=True)
    with pytest.raises(ValueError, match="key is torch.float64"):
        ours(q, k.double(), v)
    with pytest.raises(ValueError, match="enable_gqa=True"):
        ours(q, k[:, :2], v[:, :2])
    with pytest.raises(ValueError, match="heads do not fit"):
        ours(q, k[:, :3], v[:, :3], enable_gqa=True)
    with pytest.raises(ValueError, match=r"must broadcast to \[2, 4, 9, 9\]"):
        ours(q, k, v, attn_mask=mask[:, :5])
    with pytest.raises(ValueError, match="torch.int64, must be bool"):
        ours(q, k, v, attn_mask=mask.long())
    with pytest.raises(ValueError, match="batches differ"):
        ours(q, k[:1].expand(3, 4, 9, 8), v)
    with pytest.raises(ValueError, match="must be at least 0 and below 1"):
        ours(q, k, v, dropout_p=1.0)
    with pytest.raises(ValueError, match="meta"):
        ours(q.to("meta"), k, v)
    with pytest.raises(TypeError, match="query is a ndarray"):
        ours(q.numpy(), k, v)


def test_importing_attn_does_not_import_pytorch():
    import subprocess
    import sys

    code = "import sys, attn; assert 'torch' not in sys.modules; attn.torch; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
