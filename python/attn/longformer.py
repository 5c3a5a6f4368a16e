"""Longformer attention (arXiv 2004.05150): windows, and global tokens whose rows are projected apart.

Exact attention under masks, twice; what is here puts the two together.
"""

from ._attn import Mask, attention


def masks(window, global_tokens=(), dilation=1, lengths=None):
    """(of local rows, of global rows); dilation: a number, or one for each head."""
    all_keys = Mask.full() if lengths is None else Mask.padding(lengths)
    if hasattr(dilation, "__len__"):
        local = Mask.per_head([Mask.longformer(window, global_tokens, d) for d in dilation])
    else:
        local = Mask.longformer(window, global_tokens, dilation)
    return (local if lengths is None else local & all_keys), all_keys


def longformer_attention(
    q,
    k,
    v,
    global_q=None,
    global_k=None,
    global_v=None,
    *,
    window,
    global_tokens=(),
    dilation=1,
    lengths=None,
    scale=None,
    threads=0,
):
    """A local row sees `window` keys on each side and the global tokens; a global row sees all.

    q [B, H, L, D], k [B, Hkv, L, D], v [B, Hkv, L, Dv]. global_q [B, H, G, D] holds the queries of
    the G global tokens, global_k and global_v all keys, of projections of their own; without them
    the ordinary ones serve. Hugging Face's attention_window is 2 * window. lengths: real tokens of
    each batch entry, the rest is padding. attn.torch.longformer_attention has gradients.
    """
    local, all_keys = masks(window, global_tokens, dilation, lengths)
    out = attention(q, k, v, mask=local, scale=scale, threads=threads)
    if global_q is not None and len(global_tokens) > 0:
        rows = attention(global_q, global_k, global_v, mask=all_keys, scale=scale, threads=threads)
        out[:, :, list(global_tokens)] = rows
    return out
