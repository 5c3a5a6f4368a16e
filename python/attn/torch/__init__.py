"""PyTorch and Hugging Face Transformers on this engine.

    out = attn.torch.scaled_dot_product_attention(q, k, v, is_causal=True)  # with autograd
    out, lse, entropy = attn.torch.attention(q, k, v, mask=attn.Mask.causal(), entropy=True)
    out = attn.torch.recurrent(q, k, v, log_decay)  # or linear_attention, mamba2, selective_scan, ...

    attn.torch.register()
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="attn")
    with attn.torch.observe(entropy=True, top_k=8) as seen:
        model(ids)
    seen[3].entropy

    attn.torch.look(model, tokenizer, "The animal did not cross the street.", "page.html")

Importing attn never imports PyTorch; importing attn.torch does. Transformers is needed by
register() and look() only.
"""

from ._additive import additive, luong, luong_local
from ._attention import attention
from ._longformer import longformer_attention
from ._look import look
from ._models import register
from ._observe import observe
from ._recurrent import linear_attention, mamba2, recurrent
from ._scan import causal_convolution, selective_scan, wkv4
from ._sdpa import scaled_dot_product_attention

__all__ = [
    "additive",
    "attention",
    "causal_convolution",
    "linear_attention",
    "longformer_attention",
    "look",
    "luong",
    "luong_local",
    "mamba2",
    "observe",
    "recurrent",
    "register",
    "scaled_dot_product_attention",
    "selective_scan",
    "wkv4",
]
