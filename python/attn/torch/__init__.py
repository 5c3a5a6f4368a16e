"""PyTorch and Hugging Face Transformers on this engine.

    out = attn.torch.scaled_dot_product_attention(q, k, v, is_causal=True)

    attn.torch.register()
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="attn")

Importing attn never imports PyTorch; importing attn.torch does. Transformers is needed by
register() and look() only.
"""

from ._models import register
from ._sdpa import scaled_dot_product_attention

__all__ = ["register", "scaled_dot_product_attention"]
