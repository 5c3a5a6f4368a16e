#!/usr/bin/env python3
"""Makes tests/data/recurrent.json: small models with a state (Mamba, Mamba-2, RWKV-4), as Transformers runs
them. Weights come from the formula of tools/golden_families.py.

Run it with an environment that has torch and transformers; the file names their versions."""

import torch
from golden_families import case, write

SIZES = dict(vocab_size=101, hidden_size=60, num_hidden_layers=2)
CASES = {
    "mamba": ("mamba", dict(SIZES, state_size=16)),
    "mamba, biases": ("mamba", dict(SIZES, state_size=5, use_bias=True, use_conv_bias=False,
                                    conv_kernel=3, expand=1, time_step_rank=7,
                                    tie_word_embeddings=False, pad_token_id=None)),
    "mamba2": ("mamba2", dict(SIZES, num_heads=6, head_dim=20, n_groups=2, state_size=16,
                              chunk_size=8)),
    "mamba2, limits": ("mamba2", dict(SIZES, num_heads=3, head_dim=40, n_groups=3, state_size=5,
                                      chunk_size=16, use_bias=True, use_conv_bias=False,
                                      conv_kernel=3, time_step_limit=(0.2, 0.9),
                                      tie_word_embeddings=True)),
    "rwkv": ("rwkv", SIZES),
    "rwkv, widths": ("rwkv", dict(SIZES, intermediate_size=76, layer_norm_epsilon=1e-3,
                                  tie_word_embeddings=True)),
}


def main():
    torch.manual_seed(0)
    write("recurrent.json", {name: case(*what) for name, what in CASES.items()})


if __name__ == "__main__":
    main()
