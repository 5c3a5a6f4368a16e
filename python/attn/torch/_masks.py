"""Masks of PyTorch and Transformers, as structure where they show it."""

import torch

from .. import _attn


def split(mask):
    """A mask tensor as (Mask, query_start, bias): what it hides, and what it adds or None.

    A boolean mask shows where it is True. A floating-point one is added; it hides where it is at
    most half of its type's smallest number, which is what finfo.min stands for.
    """
    if mask.dtype == torch.bool:
        return (*_attn.Mask.recognize(mask.detach()), None)
    hidden = mask.detach() <= torch.finfo(mask.dtype).min / 2
    if not mask.requires_grad and not mask.masked_fill(hidden, 0).any():
        return (*_attn.Mask.recognize(~hidden), None)
    bias = mask.masked_fill(hidden, -torch.inf) if hidden.any() else mask
    return _attn.Mask(), 0, bias
