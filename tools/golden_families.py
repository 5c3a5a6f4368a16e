#!/usr/bin/env python3
"""Makes tests/data/families.json and tests/data/encoders.json: small models of every family, as
Transformers runs them.

Weights come from a formula of their name and index, which the test repeats, so that none are stored.
Run it with an environment that has torch and transformers; the file names their versions."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

SIZES = dict(vocab_size=101, hidden_size=60, intermediate_size=88, num_hidden_layers=2,
             num_attention_heads=3, max_position_embeddings=256)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=64)
LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0,
              high_freq_factor=4.0, original_max_position_embeddings=64)
LINEAR = dict(rope_type="linear", rope_theta=500.0, factor=2.0)
CASES = {
    "llama": ("llama", dict(SIZES, num_key_value_heads=1)),
    "llama, tied, llama3": ("llama", dict(SIZES, num_key_value_heads=3, tie_word_embeddings=True,
                                          rope_parameters=LLAMA3)),
    "llama, biases, yarn": ("llama", dict(SIZES, num_key_value_heads=1, attention_bias=True,
                                          mlp_bias=True, rope_parameters=YARN)),
    "llama, linear": ("llama", dict(SIZES, num_key_value_heads=1, rope_parameters=LINEAR)),
    "mistral, window": ("mistral", dict(SIZES, num_key_value_heads=1, sliding_window=17)),
    "qwen2": ("qwen2", dict(SIZES, num_key_value_heads=3)),
    "qwen3": ("qwen3", dict(SIZES, num_key_value_heads=1, head_dim=16)),
    "gpt2": ("gpt2", dict(vocab_size=101, n_embd=60, n_layer=2, n_head=3, n_positions=256)),
    "gpt_neox": ("gpt_neox", dict(SIZES, rotary_pct=0.3)),
    "gpt_neox, in turn": ("gpt_neox", dict(SIZES, use_parallel_residual=False, rotary_pct=1.0)),
}
CASES.update({
    "llama, dynamic": ("llama", dict(
        SIZES, num_key_value_heads=1, max_position_embeddings=64,
        rope_parameters=dict(rope_type="dynamic", rope_theta=10000.0, factor=2.0))),
    "gemma2": ("gemma2", dict(SIZES, num_key_value_heads=1, head_dim=20, sliding_window=17,
                              query_pre_attn_scalar=24, attn_logit_softcapping=2.0,
                              final_logit_softcapping=3.0)),
    "gptj": ("gptj", dict(vocab_size=101, n_embd=60, n_layer=2, n_head=3, n_positions=256,
                          rotary_dim=8)),
    "bloom": ("bloom", dict(vocab_size=101, hidden_size=60, n_layer=2, n_head=3)),
    "mpt": ("mpt", dict(vocab_size=101, d_model=60, n_layers=2, n_heads=3, max_seq_len=256)),
})
DEEPSEEK = dict(SIZES, q_lora_rank=28, kv_lora_rank=20, qk_nope_head_dim=14, qk_rope_head_dim=6,
                v_head_dim=10, first_k_dense_replace=2)
CASES.update({
    "deepseek_v2": ("deepseek_v2", DEEPSEEK),
    "deepseek_v2, whole queries, yarn": ("deepseek_v2", dict(
        DEEPSEEK, q_lora_rank=None, attention_bias=True, rms_norm_eps=1e-5,
        rope_parameters=dict(YARN, mscale=0.707, mscale_all_dim=0.9))),
})
# Configuration, and the class that names the weights: with a prefix or without.
ENCODERS = {
    "bert": ("bert", SIZES, AutoModel),
    "bert, prefix": ("bert", dict(SIZES, hidden_act="gelu_new", type_vocab_size=3),
                     AutoModelForMaskedLM),
    "roberta": ("roberta", dict(SIZES, type_vocab_size=1, layer_norm_eps=1e-5), AutoModel),
    "roberta, prefix": ("roberta", dict(SIZES, pad_token_id=4), AutoModelForMaskedLM),
    "distilbert": ("distilbert", dict(
        vocab_size=101, dim=60, hidden_dim=88, n_layers=2, n_heads=3, max_position_embeddings=256,
        sinusoidal_pos_embds=True), AutoModel),
    "distilbert, prefix": ("distilbert", dict(
        vocab_size=101, dim=60, hidden_dim=88, n_layers=2, n_heads=3, max_position_embeddings=256,
        activation="relu"), AutoModelForMaskedLM),
}
LENGTHS = (1, 7, 130)
STEPS = 20


def uniform(name, count):
    """Numbers in [-1, 1) from splitmix64 of the FNV-1a hash of the name plus the index."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 & (1 << 64) - 1
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(
            0x9E3779B97F4A7C15)
        z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        z = z ^ z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float64) / (1 << 23) - 1


def numbers(name, shape):
    """Norms around 1, biases small, matrices that keep the size of what they multiply, RWKV-5's decays
    slow: e^-e^x for x around -3."""
    u = uniform(name, int(np.prod(shape)))
    if len(shape) == 2 and name.endswith("time_decay"):
        x = u * 1.7 - 3
    elif len(shape) == 1:
        x = u * 0.25 + (0 if name.endswith("bias") else 1)
    else:
        x = u * 1.7 / np.sqrt(60)
    return x.astype(np.float32).reshape(shape)


def short(values):
    return [float(f"{x:.7g}") for x in values.double().flatten().tolist()]


def ids_of(length):
    return [int(i * 37 + i * i * 3 + length) % 101 for i in range(length)]


def fill(model, wanted):
    """Gives the wanted tensors of a model the numbers of the formula; their shapes by name."""
    tensors = {}
    for name, value in model.state_dict().items():
        if not wanted(name) or not value.is_floating_point():
            continue
        value.copy_(torch.from_numpy(numbers(name, tuple(value.shape))))
        tensors[name] = list(value.shape)
    return tensors


def encoder_case(model_type, settings, auto):
    """The tensors of the encoder itself, and its last hidden states."""
    config = CONFIG_MAPPING[model_type](**settings)
    model = auto.from_config(config, attn_implementation="eager").eval()
    base = getattr(model, model_type, model)
    with torch.no_grad():
        # Without the head, which may share its numbers with the embeddings.
        tensors = fill(model, lambda name: "embeddings." in name or ".layer." in name)
        runs = []
        for length in LENGTHS:
            # A padding token has no position of its own in RoBERTa.
            ids = [i if i != config.pad_token_id else 7 for i in ids_of(length)]
            types = [i % 2 if getattr(config, "type_vocab_size", 1) > 1 else 0
                     for i in range(length)]
            more = {} if model_type == "distilbert" else {"token_type_ids": torch.tensor([types])}
            hidden = base(torch.tensor([ids]), **more).last_hidden_state[0]
            rows = sorted({0, length // 2, length - 1})
            runs.append({"ids": ids, "types": types, "rows": rows,
                         "hidden": [short(hidden[r]) for r in rows]})
    return {"config": json.loads(config.to_json_string()), "tensors": tensors, "runs": runs}


def language_model(model_type, settings):
    config = CONFIG_MAPPING[model_type](**settings, bos_token_id=0, eos_token_id=None)
    return config, AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def case(model_type, settings):
    return case_of(*language_model(model_type, settings))


def case_of(config, model):
    with torch.no_grad():
        tensors = fill(model, lambda name: not (
            name in ("lm_head.weight", "head.weight") and config.tie_word_embeddings))
        runs = []
        for length in LENGTHS:
            ids = ids_of(length)
            out = model(torch.tensor([ids]), output_hidden_states=True)
            rows = sorted({0, length // 2, length - 1})
            runs.append({"ids": ids, "rows": rows,
                         "hidden": [short(out.hidden_states[-1][0, r]) for r in rows],
                         "logits": [short(out.logits[0, r]) for r in rows]})
        ids, margin = list(runs[1]["ids"]), float("inf")
        for _ in range(STEPS):
            logits = model(torch.tensor([ids])).logits[0, -1]
            best = torch.topk(logits, 2).values
            margin = min(margin, float(best[0] - best[1]))
            ids.append(int(logits.argmax()))
    if margin < 1e-4:
        sys.exit(f"{config.model_type}: a greedy step is decided by {margin}")
    keep = json.loads(config.to_json_string())
    return {"config": keep, "tensors": tensors, "runs": runs, "greedy": ids[-STEPS:]}


def write(name, cases, made_by="tools/golden_families.py"):
    out = {"made_by": made_by, "torch": torch.__version__,
           "transformers": transformers.__version__, "cases": cases}
    path = Path(__file__).resolve().parent.parent / "tests/data" / name
    text = json.dumps(out, separators=(",", ":"))
    path.write_text(text.replace('},"', '},\n"') + "\n")
    print(f"{path}: {path.stat().st_size} bytes, {hashlib.sha256(text.encode()).hexdigest()[:16]}")


def main():
    torch.manual_seed(0)
    write("families.json", {name: case(*what) for name, what in CASES.items()})
    write("encoders.json", {name: encoder_case(*what) for name, what in ENCODERS.items()})


if __name__ == "__main__":
    main()
