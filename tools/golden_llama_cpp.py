#!/usr/bin/env python3
"""Makes tests/data/llama_cpp.json: how well llama.cpp foresees the beginning of a text with SmolLM2, in
the windows of `attn score`. Prints that for more of the text, compared with what `attn` found.

  attn score smollm2 BEGINNING --window 2048 --step 1024 --json > OURS
  tools/golden_llama_cpp.py MODEL.gguf TEXT [OURS]

BEGINNING: the first 100,000 bytes of TEXT, WikiText-2's validation text. llama.cpp runs as it does by
default on a processor: activations are rounded to 8 bits before each product with a quantised
matrix, keys and values to half precision.

Run it with an environment that has cyllama 0.2.18 (a wheel of llama.cpp b9190) and numpy; the file
names their versions."""

import importlib.metadata
import json
import sys
from pathlib import Path

import cyllama
import numpy as np
from cyllama.llama import llama_cpp

BYTES, WINDOW, STEP = 100_000, 2048, 1024
FIRST = 1025  # tokens that the test scores
BATCH = 512


class Model(llama_cpp.LlamaModel):
    @property
    def n_vocab(self):  # get_logits_ith() asks its model, which has none in this version
        return self.get_vocab().n_vocab


def losses_and_tops(model, ids):
    """Of every token after the first: its loss in nats, and the one held for the most probable."""
    settings = llama_cpp.LlamaContextParams()
    settings.n_ctx, settings.n_batch, settings.n_ubatch = WINDOW, BATCH, BATCH
    settings.n_threads = settings.n_threads_batch = 1
    context = llama_cpp.LlamaContext(model, settings)
    losses, tops = [], []
    for begin in range(0, len(ids), STEP):
        end = min(begin + WINDOW, len(ids)) - 1  # its last token is foreseen, and need not run
        context.kv_cache_clear()
        for first in range(begin, end, BATCH):
            tokens = range(first, min(first + BATCH, end))
            scored = [len(losses) <= token for token in tokens]
            batch = llama_cpp.LlamaBatch(n_tokens=BATCH, embd=0, n_seq_max=1)
            for token, wanted in zip(tokens, scored):
                batch.add(ids[token], token - begin, [0], wanted)
            context.decode(batch)
            for row, token in enumerate(tokens):
                if scored[row]:
                    logits = np.array(context.get_logits_ith(row), np.float64)
                    top = int(logits.argmax())
                    losses.append(float(np.log(np.exp(logits - logits[top]).sum()) + logits[top]
                                        - logits[ids[token + 1]]))
                    tops.append(top)
        print(f"\r{len(losses) + 1} of {len(ids)} tokens", end="", file=sys.stderr, flush=True)
        if len(losses) == len(ids) - 1:
            break
    print(file=sys.stderr)
    assert len(losses) == len(ids) - 1
    return losses, tops


def perplexity(losses):
    return round(float(np.exp(np.mean(losses))), 6)


def main():
    llama_cpp.disable_logging()
    model = Model(sys.argv[1], llama_cpp.LlamaModelParams())
    text = Path(sys.argv[2]).read_bytes()[:BYTES].decode()
    ids = model.get_vocab().tokenize(text, False, False)
    losses, tops = losses_and_tops(model, ids)
    build = json.loads((Path(cyllama.__file__).parent / "build_config.json").read_text())
    out = {"made_by": "tools/golden_llama_cpp.py", "cyllama": importlib.metadata.version("cyllama"),
           "llama.cpp": build["versions"]["llama_cpp_version"],
           "bytes": BYTES, "tokens": len(ids), "window": WINDOW, "step": STEP,
           "ids": ids[:FIRST], "perplexity": perplexity(losses[:FIRST - 1]),
           "top": tops[:FIRST - 1]}
    path = Path(__file__).resolve().parent.parent / "tests/data/llama_cpp.json"
    path.write_text(json.dumps(out, separators=(",", ":")) + "\n")
    print(f"{path}: {path.stat().st_size} bytes")
    print(f"llama.cpp: perplexity {perplexity(losses)} of {len(losses)} tokens, "
          f"{out['perplexity']} of the first {FIRST - 1}")
    if len(sys.argv) > 3:
        ours = json.loads(Path(sys.argv[3]).read_text())
        assert ours["ids"] == ids, "the tokens differ"
        same = np.array(ours["top"]) == np.array(tops)
        print(f"attn: perplexity {perplexity(ours['losses'])}, "
              f"{perplexity(ours['losses'][:FIRST - 1])} of the first {FIRST - 1}; top-1 agreement "
              f"{100 * same.mean():.2f} %, {100 * same[:FIRST - 1].mean():.2f} % of the first")
        apart = np.abs(np.array(ours["losses"]) - np.array(losses))
        print(f"losses apart: {apart.mean():.5f} on average, {apart.max():.3f} at most")


if __name__ == "__main__":
    main()
