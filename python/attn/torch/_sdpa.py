"""scaled_dot_product_attention, with PyTorch's arguments and meaning."""

import math

import torch

from .. import _attn
from . import _masks
from ._autograd import attend
from ._call import Call, autocast, check, draw_dropout

_NAME = "scaled_dot_product_attention"


def scaled_dot_product_attention(
    query,
    key,
    value,
    attn_mask=None,
    dropout_p=0.0,
    is_causal=False,
    scale=None,
    enable_gqa=False,
):
    """torch.nn.functional.scaled_dot_product_attention on this engine: CPU, exact, O(L) memory.

    query [..., Hq, Lq, D], key [..., Hkv, Lk, D], value [..., Hkv, Lk, Dv]; other numbers of heads
    than the query's need enable_gqa. float32 and float64; bfloat16 and float16 are computed in
    float32. Differentiable once, with respect to attn_mask too; the seed of dropout comes from
    PyTorch's generator. Tensors whose last dimension is contiguous are read in place. is_causal
    counts from the first key (top left), as PyTorch defines it. attn_mask broadcasts to [..., Hq,
    Lq, Lk]: boolean (True: may see) or added to the scores, where at most half of finfo.min hides;
    causal masks, windows and padding are recognised, and what they hide costs nothing. A row that
    sees nothing is 0.
    """
    query, key, value = autocast(query, key, value)
    check(_NAME, query=query, key=key, value=value)
    if is_causal and attn_mask is not None:
        raise ValueError(f"[{_NAME}] attn_mask and is_causal are both given: give one")
    if not 0 <= dropout_p < 1:
        raise ValueError(f"[{_NAME}] dropout_p is {dropout_p}, must be at least 0 and below 1")
    rank = max(x.dim() for x in (query, key, value))
    query, key, value = (_with_rank(x, max(rank, 4)) for x in (query, key, value))
    key, value = _heads(query, key, value, enable_gqa)
    batch = _broadcast((x.shape[:-3] for x in (query, key, value)), query, key, value)

    q, k, v = (_merge(x, batch) for x in (query, key, value))
    mask, start, bias = _attn.Mask.causal() if is_causal else _attn.Mask(), 0, None
    if attn_mask is not None:
        mask, start, bias = _masks.split(_as_four(attn_mask, batch, q, k))
    call = Call(mask=mask, query_start=start, scale=scale, dropout=draw_dropout(dropout_p))
    out = attend(call, q, k, v, bias)
    out = out.reshape(*batch, *out.shape[1:])
    return out.reshape(out.shape[out.dim() - rank :])


def _with_rank(x, rank):
    if x.dim() < 2:
        raise ValueError(f"[{_NAME}] a tensor has {x.dim()} dimensions, must have 2 or more")
    return x[(None,) * (rank - x.dim())]


def _merge(x, batch):
    """[*batch, H, L, D] as [prod(batch), H, L, D], a view where that is one."""
    return x.expand(*batch, *x.shape[-3:]).reshape(math.prod(batch), *x.shape[-3:])


def _shapes(query, key, value):
    return f"query {list(query.shape)}, key {list(key.shape)}, value {list(value.shape)}"


def _broadcast(shapes, query, key, value):
    try:
        return torch.broadcast_shapes(*shapes)
    except RuntimeError:
        raise ValueError(f"[{_NAME}] batches differ: {_shapes(query, key, value)}") from None


def _heads(query, key, value, enable_gqa):
    """Keys and values with one number of heads, of which the query's is a multiple."""
    of = [x.shape[-3] for x in (query, key, value)]
    fits = all(n != 0 and of[0] % n == 0 for n in of[1:]) if enable_gqa else {*of[1:]} <= {1, of[0]}
    if not fits:
        raise ValueError(
            f"[{_NAME}] heads do not fit"
            f"{'' if enable_gqa else ' (enable_gqa=True shares key and value heads)'}: "
            + _shapes(query, key, value)
        )
    if of[1] == of[2]:
        return key, value
    return (x.repeat_interleave(of[0] // x.shape[-3], dim=-3) for x in (key, value))


def _as_four(mask, batch, q, k):
    """A mask that broadcasts to [*batch, Hq, Lq, Lk], with 4 dimensions."""
    if not isinstance(mask, torch.Tensor) or mask.device.type != "cpu":
        raise ValueError(f"[{_NAME}] attn_mask must be a tensor on the CPU")
    if mask.dtype != torch.bool and not mask.dtype.is_floating_point:
        raise ValueError(f"[{_NAME}] attn_mask is {mask.dtype}, must be bool or floating-point")
    whole = (*batch, q.shape[1], q.shape[2], k.shape[2])
    try:
        fits = torch.broadcast_shapes(mask.shape, whole) == whole
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"[{_NAME}] attn_mask is {list(mask.shape)}, must broadcast to {list(whole)}"
        )
    mask = mask[(None,) * (len(whole) - mask.dim())]
    return _merge(mask, batch if any(n != 1 for n in mask.shape[:-3]) else (1,) * len(batch))
