#!/usr/bin/env python3
"""Makes tests/data/score.json: losses of a small LLaMA by sliding windows, as Transformers' guide to
perplexity computes them, on weights by the formula of tools/golden_families.py.

Run it with an environment that has torch and transformers; the file names their versions."""

import json
from pathlib import Path

import torch
import transformers
from golden_families import CASES, numbers
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

TOKENS, WINDOW, STEP = 150, 48, 20


def main():
    model_type, settings = CASES["llama"]
    config = CONFIG_MAPPING[model_type](**settings, bos_token_id=0, eos_token_id=None)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    tensors = {}
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value.copy_(torch.from_numpy(numbers(name, tuple(value.shape))))
            tensors[name] = list(value.shape)
    ids = [(i * 37 + i * i * 3) % 101 for i in range(TOKENS)]
    losses, previous_end = [], 0
    for begin in range(0, TOKENS, STEP):
        end = min(begin + WINDOW, TOKENS)
        window = torch.tensor([ids[begin:end]])
        targets = window.clone()
        targets[:, : -(end - previous_end)] = -100  # counted before
        with torch.no_grad():
            logits = model(window).logits
        each = torch.nn.functional.cross_entropy(
            logits[0, :-1].double(), targets[0, 1:], ignore_index=-100, reduction="none")
        losses += [float(f"{x:.7g}") for x, t in zip(each.tolist(), targets[0, 1:]) if t != -100]
        previous_end = end
        if end == TOKENS:
            break
    assert len(losses) == TOKENS - 1
    out = {"made_by": "tools/golden_score.py", "torch": torch.__version__,
           "transformers": transformers.__version__, "config": config.to_json_string(),
           "tensors": tensors, "ids": ids, "window": WINDOW, "step": STEP, "losses": losses}
    path = Path(__file__).resolve().parent.parent / "tests/data/score.json"
    path.write_text(json.dumps(out, separators=(",", ":")) + "\n")
    print(f"{path}: {path.stat().st_size} bytes, mean loss {sum(losses) / len(losses):.6f}")


if __name__ == "__main__":
    main()
