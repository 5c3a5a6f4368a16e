"""The oracle: exact attention once more, plain and slow, in double precision. Check us with it."""

from ._attn import reference_attention as attention
from ._attn import reference_backward as backward
from ._attn import reference_observe as observe
from ._attn import reference_weights as weights

__all__ = ["attention", "backward", "observe", "weights"]
