#!/usr/bin/env python3
"""Makes tests/data/gated_attention.json: small models whose attention has a gate after it, Qwen3-Next with
nothing but such layers, as Transformers runs them.

Weights come from the formula of golden_families.py, so that none are stored. Run it with an environment
that has torch and transformers; the file names their versions."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from golden_families import SIZES, case, write  # noqa: E402

# No layers of linear attention, no experts.
GATED = dict(SIZES, num_key_value_heads=1, head_dim=12, layer_types=["full_attention"] * 2,
             mlp_only_layers=[0, 1],
             rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5))
CASES = {"qwen3_next": GATED, "qwen3_next, biases": dict(GATED, attention_bias=True)}


def main():
    torch.manual_seed(0)
    write("gated_attention.json", {name: case("qwen3_next", settings) for name, settings in CASES.items()},
          "tools/golden_gated_attention.py")


if __name__ == "__main__":
    main()
