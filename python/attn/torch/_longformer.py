"""longformer_attention(): two calls of the engine, with gradients through both."""

import torch

from ..longformer import masks
from ._attention import attention


def longformer_attention(
    query,
    key,
    value,
    global_query=None,
    global_key=None,
    global_value=None,
    *,
    window,
    global_tokens=(),
    dilation=1,
    lengths=None,
    scale=None,
):
    """attn.longformer_attention on tensors, differentiable with respect to all six of them.

        global_rows = self.query_global(x[:, tokens])
        out = attn.torch.longformer_attention(
            q, k, v, split(global_rows), split(self.key_global(x)), split(self.value_global(x)),
            window=256, global_tokens=tokens)
    """
    local, all_keys = masks(window, global_tokens, dilation, lengths)
    out = attention(query, key, value, mask=local, scale=scale).out
    if global_query is None or len(global_tokens) == 0:
        return out
    rows = attention(global_query, global_key, global_value, mask=all_keys, scale=scale).out
    return out.index_copy(2, torch.as_tensor(list(global_tokens)), rows)
