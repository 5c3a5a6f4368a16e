"""One call of the engine on PyTorch tensors [batch, heads, length, width], with autograd."""

import dataclasses
from typing import Optional

import torch

from .. import _attn

_NATIVE = (torch.float32, torch.float64)


@dataclasses.dataclass(frozen=True)
class Call:
    """What a call does, beside its tensors."""

    mask: _attn.Mask = dataclasses.field(default_factory=_attn.Mask)
    query_start: int = 0
    scale: Optional[float] = None
    soft_cap: float = 0.0

    def score(self, bias, sinks):
        return _attn.Score(scale=self.scale, soft_cap=self.soft_cap, bias=bias, sinks=sinks)


def check(function, **tensors):
    """Refuses what the engine cannot read."""
    for name, x in tensors.items():
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"[{function}] {name} is a {type(x).__name__}, must be a torch.Tensor")
        if x.device.type != "cpu":
            raise ValueError(
                f"[{function}] {name} is on {x.device}: this engine runs on the CPU, pass its cpu()"
            )
    types = {x.dtype for x in tensors.values()}
    if len(types) > 1 or not all(t.is_floating_point for t in types):
        given = ", ".join(f"{name} is {x.dtype}" for name, x in tensors.items())
        raise ValueError(f"[{function}] {given}: must be one floating-point type")


def readable(x, dtype):
    """The tensor in this type, without a copy where its rows are contiguous."""
    x = x.detach().to(dtype)
    return x if x.stride(-1) == 1 or x.shape[-1] <= 1 else x.contiguous()


def _arithmetic(dtype):
    return dtype if dtype in _NATIVE else torch.float32


def _bias(bias, dtype):
    return None if bias is None else readable(bias, dtype)


def _run(call, q, k, v, bias, sinks, return_lse):
    """(out, lse); `out` lies as [batch, length, heads, width], as the next projection reads it."""
    dtype = _arithmetic(q.dtype)
    batch, heads, length, _ = q.shape
    out = torch.empty(batch, length, heads, v.shape[-1], dtype=dtype).transpose(1, 2)
    done = _attn.attention(
        readable(q, dtype),
        readable(k, dtype),
        readable(v, dtype),
        mask=call.mask,
        score=call.score(_bias(bias, dtype), None if sinks is None else sinks.detach()),
        query_start=call.query_start,
        out=out,
        return_lse=return_lse,
        threads=torch.get_num_threads(),
    )
    lse = done[1] if return_lse else None
    return out.to(q.dtype), lse


def attend(call, q, k, v, bias=None, sinks=None):
    """Attention of [B, Hq, Lq, D] over [B, Hkv, Lk, D] and [B, Hkv, Lk, Dv]."""
    inputs = (q, k, v, bias, sinks)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs):
        raise NotImplementedError(
            "[attn.torch] gradients are not computed yet: run under torch.no_grad()"
        )
    out, _ = _run(call, q, k, v, bias, sinks, False)
    return out
