#!/usr/bin/env python3
"""Makes tests/data/gguf_models.json: small GGUF files of every architecture, as Transformers reads
and runs them.

A file is written with gguf-py and read by Transformers' own mapping of names, which also undoes what
a converter does (LLaMA's permuted rows, Gemma's norms plus one, GPT-2's transposed matrices). What
Transformers does not read from a file (scaling of rotations, windows, soft caps) is set in the
configuration instead. Weights come from the formula of golden_families.py, by the file's names.
Run it with an environment that has torch, transformers and gguf; the file names their versions."""

import importlib.metadata
import json
import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from golden_families import ids_of, numbers, short
from transformers import AutoModelForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

LENGTHS = (1, 7, 130)
STEPS = 20
SIZES = dict(vocab_size=101, hidden_size=60, intermediate_size=88, num_hidden_layers=2,
             num_attention_heads=3, max_position_embeddings=256, rms_norm_eps=1e-5)
KEYS = {"context_length": 256, "block_count": 2, "embedding_length": 60, "feed_forward_length": 88,
        "attention.head_count": 3, "attention.layer_norm_rms_epsilon": 1e-5, "vocab_size": 101,
        "rope.freq_base": 10000.0}


def rope(**settings):
    return dict(rope_parameters=dict({"rope_theta": 10000.0}, **settings))


# LLaMA 3.1's scaling as the converter writes it: what divides every frequency.
def divisors(factor=8.0, low=1.0, high=4.0, length=64, width=20):
    theta = 10000.0 ** -(np.arange(0, width, 2) / width)
    wave = 2 * np.pi / theta
    smooth = (length / wave - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    return np.where(wave < length / high, 1, np.where(wave > length / low, factor, between))


# Architecture, keys besides KEYS, model type, settings besides SIZES, tied, numbers of tensors.
CASES = {
    "llama": ("llama", {"attention.head_count_kv": 1, "rope.dimension_count": 20}, "llama",
              dict(num_key_value_heads=1), False, {}),
    "llama, divided": ("llama", {"attention.head_count_kv": 3, "rope.dimension_count": 20}, "llama",
                       dict(num_key_value_heads=3, **rope(
                           rope_type="llama3", factor=8.0, low_freq_factor=1.0,
                           high_freq_factor=4.0, original_max_position_embeddings=64)), True,
                       {"rope_freqs.weight": divisors()}),
    "llama, linear": ("llama", {
        "attention.head_count_kv": 1, "rope.dimension_count": 20, "rope.freq_base": 500.0,
        "rope.scaling.type": "linear", "rope.scaling.factor": 2.0}, "llama",
        dict(num_key_value_heads=1, **rope(rope_type="linear", rope_theta=500.0, factor=2.0)),
        False, {}),
    "llama, yarn": ("llama", {
        "attention.head_count_kv": 1, "rope.dimension_count": 20, "rope.scaling.type": "yarn",
        "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64,
        "rope.scaling.finetuned": True}, "llama",
        dict(num_key_value_heads=1, **rope(
            rope_type="yarn", factor=4.0, original_max_position_embeddings=64)), False, {}),
    "llama, heads of 16": ("llama", {
        "attention.head_count_kv": 1, "attention.key_length": 16, "attention.value_length": 16,
        "rope.dimension_count": 16}, "llama", dict(num_key_value_heads=1, head_dim=16), False, {}),
    "llama, window": ("llama", {"attention.head_count_kv": 1, "rope.dimension_count": 20,
                                "attention.sliding_window": 17}, "mistral",
                      dict(num_key_value_heads=1, sliding_window=17), False, {}),
    "qwen2": ("qwen2", {"attention.head_count_kv": 3}, "qwen2", dict(num_key_value_heads=3), False,
              {}),
    "qwen3": ("qwen3", {"attention.head_count_kv": 1, "attention.key_length": 16,
                        "attention.value_length": 16}, "qwen3",
              dict(num_key_value_heads=1, head_dim=16), True, {}),
    "gemma2": ("gemma2", {
        "attention.head_count_kv": 1, "attention.key_length": 16, "attention.value_length": 16,
        "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
        "attention.sliding_window": 17}, "gemma2",
        dict(num_key_value_heads=1, head_dim=16, query_pre_attn_scalar=16, sliding_window=17,
             attn_logit_softcapping=2.0, final_logit_softcapping=3.0), True, {}),
    "phi3": ("phi3", {"attention.head_count_kv": 1, "rope.dimension_count": 20,
                      "attention.sliding_window": 17}, "phi3",
             dict(num_key_value_heads=1, sliding_window=17, pad_token_id=0), False, {}),
    "gpt2": ("gpt2", {"attention.layer_norm_epsilon": 1e-5}, "gpt2", None, True, {}),
}


def metadata_of(architecture, keys):
    if architecture == "gpt2":
        drop = ("rope.freq_base", "attention.layer_norm_rms_epsilon", "vocab_size")
        keys = dict({k: v for k, v in KEYS.items() if k not in drop}, **keys)
    else:
        keys = dict(KEYS, **keys)
    return {f"{architecture}.{k}": v for k, v in keys.items()}


def tensors_of(architecture, model, tied, given):
    """Names and shapes as the converter would write them."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], 2)
    tensors = {}
    for hf_name, weight in model.state_dict().items():
        if hf_name == "lm_head.weight" and tied:
            continue
        base, _, suffix = hf_name.rpartition(".")
        shape = list(weight.shape)
        # GPT-2's matrices stand the other way round.
        if model.config.model_type == "gpt2" and len(shape) == 2 and ".h." in hf_name:
            shape.reverse()
        tensors[f"{names.get_name(base)}.{suffix}"] = shape
    for name, values in given.items():
        tensors[name] = [len(values)]
    return tensors


def write_file(path, architecture, metadata, tensors, given):
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string,
               bool: writer.add_bool}
        add[type(value)](key, value)
    writer.add_token_list([f"t{i}" for i in range(101)])
    for name, shape in tensors.items():
        writer.add_tensor(name, given[name].astype(np.float32) if name in given
                          else numbers(name, shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def case(architecture, keys, model_type, settings, tied, given):
    if model_type == "gpt2":
        sizes = dict(vocab_size=101, n_embd=60, n_layer=2, n_head=3, n_positions=256, n_inner=88)
    else:
        sizes = dict(SIZES, tie_word_embeddings=tied, **settings)
    sizes.setdefault("eos_token_id", None)
    config = CONFIG_MAPPING[model_type](**sizes, bos_token_id=0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    metadata = metadata_of(architecture, keys)
    tensors = tensors_of(architecture, model, tied, given)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = f"{folder}/model.gguf"
        write_file(path, architecture, metadata, tensors, given)
        # Its names of Mistral's tensors are LLaMA's.
        reader = model if model_type != "mistral" else AutoModelForCausalLM.from_config(
            CONFIG_MAPPING["llama"](**dict(SIZES, num_key_value_heads=1)))
        read = load_gguf_checkpoint(path, return_tensors=True, model_to_load=reader)
        missing, unexpected = model.load_state_dict(read["tensors"], strict=False)
        assert not unexpected and set(missing) <= ({"lm_head.weight"} if tied else set()), missing
        model.tie_weights()
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
                     "num_key_value_heads", "tie_word_embeddings"):
            assert read["config"].get(name, getattr(config, name, None)) == getattr(
                config, name, None), name
        runs = []
        for length in LENGTHS:
            ids = ids_of(length)
            logits = model(torch.tensor([ids])).logits[0]
            rows = sorted({0, length // 2, length - 1})
            runs.append({"ids": ids, "rows": rows, "logits": [short(logits[r]) for r in rows]})
        ids, margin = list(runs[1]["ids"]), float("inf")
        for _ in range(STEPS):
            logits = model(torch.tensor([ids])).logits[0, -1]
            best = torch.topk(logits, 2).values
            margin = min(margin, float(best[0] - best[1]))
            ids.append(int(logits.argmax()))
    assert margin > 1e-4, f"{architecture}: a greedy step is decided by {margin}"
    return {"architecture": architecture, "metadata": metadata, "tensors": tensors,
            "given": {name: [float(np.float32(x)) for x in given[name]] for name in given},
            "runs": runs, "greedy": ids[-STEPS:]}


def main():
    torch.manual_seed(0)
    out = {"made_by": "tools/golden_gguf_models.py", "torch": torch.__version__,
           "transformers": transformers.__version__, "gguf": importlib.metadata.version("gguf"),
           "cases": {name: case(*what) for name, what in CASES.items()}}
    path = Path(__file__).resolve().parent.parent / "tests/data/gguf_models.json"
    path.write_text(json.dumps(out, separators=(",", ":")).replace('},"', '},\n"') + "\n")
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
