"""Writes tests/data/golden_positions.txt: what Hugging Face transformers computes for positions.

    pip install torch transformers && python tools/golden_positions.py

One record a line: name, number of values, values. Made with transformers 5.23, torch 2.13 (CPU).
"""

import pathlib

import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb as rotate_half
from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb as rotate_pairs
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor
from transformers.models.t5.modeling_t5 import T5Attention

OUT = pathlib.Path(__file__).parent.parent / "tests" / "data" / "golden_positions.txt"
records = []


def record(name, values):
    values = torch.as_tensor(values).flatten()
    form = {torch.int64: "%d", torch.float32: "%.9g", torch.float64: "%.17g"}[values.dtype]
    records.append(" ".join([name, str(values.numel())] + [form % v for v in values.tolist()]))


def frequencies(name, kind, head_dim, fraction=1.0, theta=10000.0, length=2048, seq_len=None, **more):
    """inv_freq, then the attention factor."""
    parameters = {"rope_type": kind, "rope_theta": theta, "partial_rotary_factor": fraction, **more}
    config = LlamaConfig(hidden_size=head_dim * 4, num_attention_heads=4, head_dim=head_dim,
                         max_position_embeddings=length, rope_parameters=parameters)
    inv_freq, factor = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), seq_len=seq_len)
    record(name, torch.cat([inv_freq, torch.tensor([float(factor)])]))


frequencies("linear", "linear", 64, factor=4.0)
frequencies("linear_partial", "linear", 80, fraction=0.4, factor=2.5)
frequencies("dynamic_short", "dynamic", 64, factor=2.0, seq_len=1000)
frequencies("dynamic_long", "dynamic", 64, factor=2.0, seq_len=6000)
frequencies("dynamic_partial", "dynamic", 96, fraction=0.25, factor=4.0, seq_len=5000)
yarn = {"factor": 16.0, "original_max_position_embeddings": 4096, "length": 65536}
frequencies("yarn", "yarn", 128, **yarn)
frequencies("yarn_untruncated", "yarn", 64, theta=150000.0, factor=32.0, truncate=False,
            original_max_position_embeddings=4096, length=131072)
frequencies("yarn_partial", "yarn", 64, fraction=0.5, **yarn)
frequencies("yarn_betas", "yarn", 64, beta_fast=8.0, beta_slow=2.0, **yarn)
frequencies("yarn_attention_factor", "yarn", 64, attention_factor=0.75, **yarn)
frequencies("yarn_mscale", "yarn", 64, theta=10000.0, factor=40.0, mscale=0.707,
            mscale_all_dim=0.5, original_max_position_embeddings=4096, length=163840)
llama3 = {"original_max_position_embeddings": 8192, "length": 131072, "theta": 500000.0,
          "low_freq_factor": 1.0, "high_freq_factor": 4.0}
frequencies("llama3", "llama3", 128, factor=8.0, **llama3)
frequencies("llama3_small", "llama3", 64, factor=32.0, **llama3)

# Rotations of the same x [1, 2, 3, 8] at positions 0, 5, 1000 (double).
x = (torch.arange(48, dtype=torch.float64) * 0.37).sin().reshape(1, 2, 3, 8)
at = torch.tensor([0, 5, 1000], dtype=torch.float64)


def angles(width):
    return at[:, None] * (10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width))


both = torch.cat([angles(8), angles(8)], dim=-1)[None]
record("rotated_half", rotate_half(x, x, both.cos(), both.sin())[0])
quarter = torch.cat([angles(4), angles(4)], dim=-1)[None]
record("rotated_half_of_half", rotate_half(x, x, quarter.cos(), quarter.sin())[0])
pairs = rotate_pairs(x.transpose(1, 2), angles(8).sin()[None], angles(8).cos()[None])
record("rotated_interleaved", pairs.transpose(1, 2))

for heads in (1, 2, 7, 8, 12, 16, 20, 71, 112):
    # Bloom's tensor is slope * position: read it at position 1.
    record(f"alibi_bloom_{heads}", build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)[:, 0, 1])
for heads, bias_max in ((8, 8), (12, 8), (24, 16), (40, 4)):
    # MPT's is slope * (position - last): read it one before the last.
    record(f"alibi_mpt_{heads}_{bias_max}", -build_mpt_alibi_tensor(heads, 2, bias_max)[:, 0, 0])

relative = torch.arange(-300, 301)
for both_sides, buckets, distance in ((True, 32, 128), (False, 32, 128), (True, 64, 256), (False, 12, 20)):
    name = f"t5_{int(both_sides)}_{buckets}_{distance}"
    record(name, T5Attention._relative_position_bucket(relative, both_sides, buckets, distance))

OUT.parent.mkdir(parents=True, exist_ok=True)
OUT.write_text("\n".join(records) + "\n")
