#!/usr/bin/env python3
"""Makes tests/data/sparse_models.json and tests/data/sparse_layers.json: Longformer and BigBird, small
models and single layers, as Transformers runs them.

Weights and inputs come from the formula of golden_families.py, so that none are stored. Run it with an
environment that has torch and transformers; the files name their versions."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoModelForMaskedLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.big_bird import modeling_big_bird
from transformers.models.longformer import modeling_longformer

sys.path.insert(0, str(Path(__file__).resolve().parent))
from golden_families import SIZES, fill, ids_of, numbers, short, uniform, write  # noqa: E402

LONG = dict(SIZES, max_position_embeddings=1100)
# Configuration, the class that names the weights, and texts: a length and its global tokens.
MODELS = {
    "longformer": ("longformer", dict(SIZES, attention_window=[8, 16], pad_token_id=1), AutoModel, [
        (1, [0]), (7, [0]), (16, [0]), (128, [0]), (130, [0, 5, 77, 129]), (45, [])]),
    "longformer, prefix": ("longformer", dict(
        SIZES, attention_window=6, pad_token_id=4, type_vocab_size=1, hidden_act="gelu_new"),
        AutoModelForMaskedLM, [(6, [0]), (101, [0]), (90, [13])]),
    "big_bird": ("big_bird", dict(LONG, block_size=4, num_random_blocks=1), AutoModel, [
        (1, []), (28, []), (29, []), (64, []), (130, []), (1024, [])]),
    "big_bird, prefix": ("big_bird", dict(
        SIZES, block_size=5, num_random_blocks=3, use_bias=False, rescale_embeddings=True),
        AutoModelForMaskedLM, [(55, []), (56, []), (100, []), (131, [])]),
    "big_bird, full": ("big_bird", dict(SIZES, attention_type="original_full", hidden_act="gelu"),
                       AutoModel, [(7, []), (130, [])]),
}


def model_case(model_type, settings, auto, texts):
    config = CONFIG_MAPPING[model_type](**settings)
    model = auto.from_config(config, attn_implementation="eager").eval()
    base = getattr(model, model.base_model_prefix, model)
    tensors = fill(model, lambda name: "embeddings." in name or ".layer." in name)
    runs = []
    for length, tokens in texts:
        ids = [i if i != config.pad_token_id else 7 for i in ids_of(length)]
        types = [i % 2 if config.type_vocab_size > 1 else 0 for i in range(length)]
        arguments = {}
        padded = 0
        if model_type == "longformer":
            # In a batch with a longer text, whose padding must change nothing.
            padded = 11
            arguments["global_attention_mask"] = torch.zeros(1, length + padded, dtype=torch.long)
            arguments["global_attention_mask"][0, tokens] = 1
            arguments["attention_mask"] = torch.ones(1, length + padded, dtype=torch.long)
            arguments["attention_mask"][0, length:] = 0
        elif config.attention_type == "block_sparse":
            base.set_attention_type("block_sparse")  # a short text leaves it at original_full
        out = base(torch.tensor([ids + [config.pad_token_id] * padded]),
                   token_type_ids=torch.tensor([types + [0] * padded]), output_attentions=True,
                   **arguments)
        hidden = out.last_hidden_state[0]
        rows = sorted({0, min(5, length - 1), length // 2, length - 1})
        runs.append({"ids": ids, "types": types, "global_tokens": tokens, "rows": rows,
                     "hidden": [short(hidden[r]) for r in rows]})
        if len(tokens) > 1:
            # Head 1 of the last layer: the second global token's row, and that of token 60, which
            # holds the global tokens and then its window.
            runs[-1]["global_row"] = short(out.global_attentions[-1][0, 1, :length, 1])
            runs[-1]["row_60"] = short(out.attentions[-1][0, 1, 60])
    return {"config": json.loads(config.to_json_string()), "tensors": tensors, "runs": runs}


WIDTH, HEADS = 24, 2


def weighted(module):
    """The module in float64 with the formula's numbers, and what its tensors are."""
    module = module.double()
    tensors = {}
    for name, value in module.state_dict().items():
        value.copy_(torch.from_numpy(numbers(name, tuple(value.shape)).astype(np.float64)))
        tensors[name] = list(value.shape)
    return module, tensors


def input_of(length):
    return torch.from_numpy(uniform("x", length * WIDTH).reshape(1, length, WIDTH))


def rows_of(out):
    length = out.shape[1]
    rows = sorted({0, 1, 9, 17, length // 2, length - 2, length - 1})
    return {"rows": rows, "out": [[float(f"{x:.13g}") for x in out[0, r].tolist()] for r in rows]}


def longformer_layer(length, window, tokens):
    """LongformerSelfAttention: its sequences are multiples of 2 w, so padding fills the rest."""
    config = CONFIG_MAPPING["longformer"](hidden_size=WIDTH, num_attention_heads=HEADS,
                                          attention_window=[2 * window], num_hidden_layers=1)
    layer, tensors = weighted(modeling_longformer.LongformerSelfAttention(config, 0).eval())
    padded = -length % (2 * window)
    x = torch.nn.functional.pad(input_of(length), (0, 0, 0, padded), value=0.25)
    mask = torch.zeros(1, length + padded, dtype=torch.float64)
    mask[0, tokens] = 1e4
    mask[0, length:] = -1e4
    out = layer(x, mask, mask < 0, mask > 0, bool(tokens))[0][:, :length]
    return {"length": length, "window": window, "global_tokens": tokens, "tensors": tensors,
            **rows_of(out)}


def bigbird_layer(length, block, random, training):
    """BigBirdBlockSparseAttention; in training with the blocks that it drew."""
    config = CONFIG_MAPPING["big_bird"](hidden_size=WIDTH, num_attention_heads=HEADS,
                                        block_size=block, num_random_blocks=random,
                                        max_position_embeddings=4096)
    layer, tensors = weighted(modeling_big_bird.BigBirdBlockSparseAttention(config, seed=5))
    layer.train(training)
    drawn = []
    keep = layer._create_rand_mask_from_inputs
    layer._create_rand_mask_from_inputs = lambda a, b, rand_attn, *rest: (
        drawn.append(rand_attn[0].tolist()), keep(a, b, rand_attn, *rest))[1]
    masks = modeling_big_bird.BigBirdModel.create_masks_for_block_sparse_attn(
        torch.ones(1, length, dtype=torch.float64), block)
    blocked, band, rows, columns = masks
    out = layer(input_of(length), band, rows, columns, blocked, blocked)[0]
    case = {"length": length, "block": block, "random": random, "tensors": tensors, **rows_of(out)}
    if training:
        for head in drawn[0]:
            for i, blocks in enumerate(head, start=1):
                held = {0, i - 1, i, i + 1, length // block - 1}
                assert len(set(blocks) - held) == random, "a block is drawn twice"
        case["drawn"] = drawn[0]  # [heads][blocks - 2][random]
    return case


def main():
    torch.manual_seed(0)
    with torch.no_grad():
        write("sparse_models.json", {name: model_case(*what) for name, what in MODELS.items()},
              "tools/golden_sparse.py")
        write("sparse_layers.json", {
            "longformer": longformer_layer(64, 8, [0]),
            "longformer, odd length": longformer_layer(53, 5, [3, 30, 52]),
            "longformer, no global token": longformer_layer(40, 4, []),
            "big_bird": bigbird_layer(80, 4, 3, training=False),
            "big_bird, drawn": bigbird_layer(80, 4, 3, training=True),
        }, "tools/golden_sparse.py")


if __name__ == "__main__":
    main()
