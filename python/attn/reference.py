"""The oracle: every mechanism once more, plain and slow, in double precision. Check us with it."""

from ._attn import reference_additive as additive
from ._attn import reference_attention as attention
from ._attn import reference_backward as backward
from ._attn import reference_causal_convolution as causal_convolution
from ._attn import reference_linear_attention as linear_attention
from ._attn import reference_luong as luong
from ._attn import reference_luong_local as luong_local
from ._attn import reference_mamba2 as mamba2
from ._attn import reference_observe as observe
from ._attn import reference_recurrent as recurrent
from ._attn import reference_selective_scan as selective_scan
from ._attn import reference_weights as weights
from ._attn import reference_wkv4 as wkv4

__all__ = [
    "additive",
    "attention",
    "backward",
    "causal_convolution",
    "linear_attention",
    "luong",
    "luong_local",
    "mamba2",
    "observe",
    "recurrent",
    "selective_scan",
    "weights",
    "wkv4",
]
