"""attention(): the engine's own masks and scores, with gradients through all that it returns."""

from typing import NamedTuple, Optional

import torch

from .. import _attn
from ._autograd import attend_with_rows
from ._call import Call, autocast, check, draw_dropout

_NAME = "attention"


class Attended(NamedTuple):
    out: torch.Tensor  # [B, Hq, Lq, Dv]
    lse: torch.Tensor  # [B, Hq, Lq], natural logarithm, without sinks
    entropy: Optional[torch.Tensor]  # [B, Hq, Lq] nats, if asked


def attention(
    query,
    key,
    value,
    *,
    mask=None,
    scale=None,
    soft_cap=0.0,
    bias=None,
    sinks=None,
    query_start=0,
    dropout_p=0.0,
    entropy=False,
):
    """Exact attention whose log-sum-exp and entropy can be part of a loss, in O(L) memory.

        out, lse, entropy = attn.torch.attention(q, k, v, mask=attn.Mask.causal(), entropy=True)
        (loss(out) + 0.01 * entropy.mean()).backward()

    query [B, Hq, Lq, D], key [B, Hkv, Lk, D], value [B, Hkv, Lk, Dv], Hq a multiple of Hkv. mask:
    an attn.Mask; bias broadcasts to [B, Hq, Lq, Lk]; sinks [Hq]. Differentiable once, with respect
    to query, key, value, bias and sinks. Queries stand at query_start, query_start + 1, ...
    """
    query, key, value = autocast(query, key, value)
    check(_NAME, query=query, key=key, value=value)
    for name, x in (("query", query), ("key", key), ("value", value)):
        if x.dim() != 4:
            raise ValueError(f"[{_NAME}] {name} has {x.dim()} dimensions, must have 4")
    if not 0 <= dropout_p < 1:
        raise ValueError(f"[{_NAME}] dropout_p is {dropout_p}, must be at least 0 and below 1")
    call = Call(
        mask=_attn.Mask() if mask is None else mask,
        query_start=query_start,
        scale=scale,
        soft_cap=soft_cap,
        dropout=draw_dropout(dropout_p),
    )
    return Attended(*attend_with_rows(call, query, key, value, bias, sinks, entropy))
