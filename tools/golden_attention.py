"""Writes tests/data/golden_attention.txt: exact attention as PyTorch and transformers compute it.

    pip install torch transformers && python tools/golden_attention.py

One record a line: name, number of values, values. All in float64; the inputs are sines that the test
makes again. Made with torch 2.13, transformers 5.23 (CPU).
"""

import pathlib
from types import SimpleNamespace

import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward as gemma2
from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward as gpt_oss
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor
from transformers.models.t5.modeling_t5 import T5Attention

OUT = pathlib.Path(__file__).parent.parent / "tests" / "data" / "golden_attention.txt"
INF = float("inf")
records = []


def record(name, values):
    values = values.flatten().tolist()
    records.append(" ".join([name, str(len(values))] + ["%.17g" % v for v in values]))


def wave(phase, *shape):
    """sin(phase + 0.37 i) over the elements i in order."""
    n = torch.Size(shape).numel()
    return torch.sin(phase + 0.37 * torch.arange(n, dtype=torch.float64)).reshape(shape)


B, HQ, HKV, LQ, LK, D, DV = 2, 4, 2, 5, 7, 6, 3
q, k, v = wave(0.1, B, HQ, LQ, D), wave(0.2, B, HKV, LK, D), wave(0.3, B, HKV, LK, DV)
k4, v4 = k.repeat_interleave(HQ // HKV, 1), v.repeat_interleave(HQ // HKV, 1)

# 1. What scaled_dot_product_attention can do.
record("plain", sdpa(q, k, v, enable_gqa=True))
record("scale", sdpa(q, k, v, scale=2.5, enable_gqa=True))
causal = torch.arange(LK)[None, :] <= torch.arange(LQ)[:, None] + (LK - LQ)  # queries at the end
record("causal_end", sdpa(q, k, v, attn_mask=causal, enable_gqa=True))
record("causal_start", sdpa(q, k, v, is_causal=True, enable_gqa=True))
bias = 3 * wave(0.4, 1, HQ, LQ, LK)
record("bias", sdpa(q, k, v, attn_mask=bias, enable_gqa=True))
hiding = torch.where(bias < -1, -INF, bias)
record("bias_hides", sdpa(q, k, v, attn_mask=hiding, enable_gqa=True))
record("lse", torch.logsumexp(q @ k4.transpose(-1, -2) / D**0.5, -1))

# 2. What models do in eager code.
module = SimpleNamespace(num_key_value_groups=HQ // HKV, training=False, sinks=(wave(0.5, HQ) * 2).float().double())
minus = torch.where(causal, 0.0, -INF)[None, None]
out, _ = gemma2(module, q, k, v, minus, scaling=1.5, softcap=0.8)
record("soft_cap", out.transpose(1, 2))
out, weights = gpt_oss(module, q, k, v, minus, scaling=1.5)
record("sinks", out.transpose(1, 2))
record("sinks_weights", weights)

# 3. ALiBi, causal as MPT, and two-sided, by hand.
alibi = build_mpt_alibi_tensor(HQ, LK).double()  # slope * (k_pos - last), as good as k_pos - q_pos
scores = q @ k4.transpose(-1, -2) / D**0.5
record("alibi_causal", torch.softmax(scores + alibi + minus, -1) @ v4)
distance = torch.arange(LK)[None, :] - (torch.arange(LQ)[:, None] + 1)  # queries from position 1
slopes = torch.tensor([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8], dtype=torch.float64)[:, None, None]
record("alibi_two_sided", torch.softmax(scores - slopes * distance.abs(), -1) @ v4)

# 4. T5, unscaled, both kinds.
table = wave(0.6, 8, HQ).float().double()  # as the library stores it
for name, both in (("t5_encoder", True), ("t5_decoder", False)):
    buckets = T5Attention._relative_position_bucket(distance, both, 8, 6)
    raw = q @ k4.transpose(-1, -2) + table[buckets].permute(2, 0, 1)
    record(name, torch.softmax(raw, -1) @ v4)

# 5. Everything in its order: scale, cap, bias and ALiBi and T5, mask, softmax with a sink.
capped = 0.9 * torch.tanh(q @ k4.transpose(-1, -2) * 0.7 / 0.9)
buckets = T5Attention._relative_position_bucket(distance, True, 8, 6)
s = capped + bias - slopes * distance.abs() + table[buckets].permute(2, 0, 1)
visible = distance <= 0
s = s.masked_fill(~visible, -INF)
sink = module.sinks[None, :, None, None].expand(B, HQ, LQ, 1)
record("all", torch.softmax(torch.cat([s, sink], -1), -1)[..., :-1] @ v4)
record("all_lse", torch.logsumexp(s, -1))

OUT.parent.mkdir(parents=True, exist_ok=True)
OUT.write_text("\n".join(records) + "\n")
