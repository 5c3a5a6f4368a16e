"""The oracle: exact attention once more, plain and slow, in double precision. Check us with it."""

from ._attn import reference_additive as additive
from ._attn import reference_attention as attention
from ._attn import reference_backward as backward
from ._attn import reference_luong as luong
from ._attn import reference_luong_local as luong_local
from ._attn import reference_observe as observe
from ._attn import reference_weights as weights

__all__ = ["additive", "attention", "backward", "luong", "luong_local", "observe", "weights"]
