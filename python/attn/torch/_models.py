"""attn_implementation="attn" for Hugging Face Transformers."""

import torch

from .. import _attn
from . import _masks
from ._autograd import attend
from ._call import Call, autocast, check, draw_dropout
from ._structure import StructuredMask, mask_of

NAME = "attn"


def register():
    """Makes attn_implementation="attn" known to Hugging Face Transformers (5.0 and newer).

        attn.torch.register()
        model = AutoModel.from_pretrained(path, attn_implementation="attn")
        model.set_attn_implementation("attn")  # or later

    Any model that follows Transformers' attention interface then runs on this engine: grouped
    heads, windows, padding, soft caps, sinks and position biases become structure or scores. A
    model that computes attention itself (BLOOM) raises ValueError when it runs. Calling it again
    changes nothing.
    """
    try:
        from transformers import AttentionInterface
        from transformers.masking_utils import AttentionMaskInterface
    except ImportError as error:
        raise ImportError(
            "[attn.torch] register() needs Hugging Face Transformers with its attention and mask "
            f"interfaces, 5.0 or newer: {error}"
        ) from None
    # torch.compile breaks its graph around the engine instead of looking into it.
    AttentionInterface.register(NAME, torch.compiler.disable(attention_forward))
    AttentionMaskInterface.register(NAME, torch.compiler.disable(mask_of))


def attention_forward(
    module,
    query,
    key,
    value,
    attention_mask,
    scaling=None,
    dropout=0.0,
    is_causal=None,
    sliding_window=None,
    softcap=None,
    position_bias=None,
    s_aux=None,
    **kwargs,
):
    """What Transformers calls: (output [B, Lq, Hq, Dv], None)."""
    if kwargs.get("output_attentions"):
        raise ValueError(
            "[attn.torch] output_attentions=True asks for the matrices that this engine never "
            'forms: use attn.torch.observe(), or attn_implementation="eager"'
        )
    query, key, value = autocast(query, key, value)
    check("attn.torch", query=query, key=key, value=value)
    batch = max(query.shape[0], key.shape[0])  # learned queries have batch 1
    query, key, value = (x.expand(batch, -1, -1, -1) for x in (query, key, value))
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    mask, start, bias = _visible(query, key, attention_mask, is_causal, sliding_window)
    if position_bias is not None:
        bias = position_bias if bias is None else position_bias + bias
    call = Call(
        mask=mask,
        query_start=start,
        scale=scaling,
        soft_cap=softcap or 0.0,
        dropout=draw_dropout(dropout),
    )
    out = attend(call, query, key, value, bias, s_aux, module)
    return out.transpose(1, 2).contiguous(), None


def _visible(query, key, attention_mask, is_causal, sliding_window):
    """(Mask, query_start, bias or None)."""
    q_len, k_len = query.shape[2], key.shape[2]
    if isinstance(attention_mask, StructuredMask):
        if attention_mask.shape[-2:] != (q_len, k_len):
            raise ValueError(
                f"[attn.torch] the mask is {list(attention_mask.shape)}, queries and keys are "
                f"{q_len} and {k_len} long"
            )
        return attention_mask.mask, attention_mask.query_start, None
    if attention_mask is not None:
        return _masks.split(attention_mask)
    # No mask at all: what PyTorch's own implementation of the interface takes it to mean.
    mask = _attn.Mask.causal() if is_causal and q_len > 1 else _attn.Mask()
    if sliding_window is not None and q_len > 1:
        mask = mask & _attn.Mask.window(sliding_window - 1, sliding_window - 1)
    return mask, 0, None
