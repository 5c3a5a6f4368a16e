"""What one call of the engine needs, beside its tensors."""

import dataclasses
from typing import Optional

import torch

from .. import _attn


@dataclasses.dataclass(frozen=True)
class Call:
    """What a call does."""

    mask: _attn.Mask = dataclasses.field(default_factory=_attn.Mask)
    query_start: int = 0
    scale: Optional[float] = None
    soft_cap: float = 0.0
    dropout: Optional[_attn.Dropout] = None

    def options(self, bias, sinks, dtype):
        """Keyword arguments of attn.observe and attn.backward."""
        score = _attn.Score(
            scale=self.scale,
            soft_cap=self.soft_cap,
            bias=None if bias is None else readable(bias, dtype),
            sinks=None if sinks is None else sinks.detach(),
        )
        return {
            "mask": self.mask,
            "score": score,
            "query_start": self.query_start,
            "dropout": self.dropout,
            "threads": torch.get_num_threads(),
        }


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


def autocast(*tensors):
    """Tensors in the type of torch.autocast, where that is on, as PyTorch's own attention does."""
    if not torch.is_autocast_enabled("cpu"):
        return tensors
    dtype = torch.get_autocast_dtype("cpu")
    known = (torch.float32, torch.bfloat16, torch.float16)
    return tuple(
        x.to(dtype) if isinstance(x, torch.Tensor) and x.dtype in known else x for x in tensors
    )


def readable(x, dtype):
    """The tensor in this type, without a copy where its rows are contiguous."""
    x = x.detach().to(dtype)
    return x if x.stride(-1) == 1 or x.shape[-1] <= 1 else x.contiguous()


def arithmetic(dtype):
    """The type that the engine computes in, and takes a bias in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def draw_dropout(p):
    """A Dropout whose seed comes from PyTorch's generator, so that torch.manual_seed repeats it."""
    if p == 0:
        return None
    return _attn.Dropout(p, seed=int(torch.randint(2**63 - 1, (), dtype=torch.int64)))
