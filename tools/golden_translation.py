#!/usr/bin/env python3
"""Makes tests/data/translation.json: small encoder-decoders of every family, as Transformers runs and
generates with them. Weights come from the formula of golden_families.py.

Run it with an environment that has torch and transformers; the file names their versions."""

import hashlib
import json
import sys
from pathlib import Path

import torch
import transformers
from golden_families import numbers, short
from transformers import AutoModelForSeq2SeqLM, GenerationConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

T5 = dict(vocab_size=101, d_model=60, d_kv=20, d_ff=88, num_layers=3, num_decoder_layers=2, num_heads=3)
BART = dict(vocab_size=101, d_model=60, encoder_layers=2, decoder_layers=3, encoder_attention_heads=3,
            decoder_attention_heads=3, encoder_ffn_dim=88, decoder_ffn_dim=72, max_position_embeddings=256)
CASES = {
    "t5": ("t5", dict(T5, decoder_start_token_id=0)),
    "t5, gated, untied": ("t5", dict(T5, decoder_start_token_id=0, feed_forward_proj="gated-gelu",
                                     tie_word_embeddings=False, relative_attention_num_buckets=16,
                                     relative_attention_max_distance=50)),
    "bart": ("bart", dict(BART, decoder_start_token_id=2, forced_eos_token_id=None)),
    "marian": ("marian", dict(BART, decoder_start_token_id=100, pad_token_id=100, eos_token_id=0,
                              activation_function="swish", scale_embedding=True,
                              forced_eos_token_id=None)),
}
LENGTHS = (1, 7, 130)
ATTENTION_LENGTH = 7  # of which all attention weights are kept
STEPS = 20
# What generate() is asked for, beside the number of tokens.
SEARCHES = [
    dict(num_beams=4),
    dict(num_beams=4, length_penalty=2.0, early_stopping=True),
    dict(num_beams=3, length_penalty=0.0, early_stopping="never"),
    dict(num_beams=2, length_penalty=-1.0),
    dict(num_beams=4, no_repeat_ngram_size=2, min_new_tokens=9, renormalize_logits=True),
    dict(num_beams=4, forced_bos_token_id=17, forced_eos_token_id=1, bad_words_ids=[[5], [6]]),
    dict(num_beams=1, repetition_penalty=1.0),
]


def fill(model, untied):
    """Writes the weights; what two names share is written once. Returns the names and shapes."""
    if untied:
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    tensors, seen = {}, set()
    state = model.state_dict()
    for name in sorted(state, key=lambda n: (not n.endswith("shared.weight"), n)):
        value = state[name]
        if value.data_ptr() in seen or (name.endswith("embed_positions.weight") and
                                        model.config.model_type == "marian"):
            continue
        seen.add(value.data_ptr())
        value.copy_(torch.from_numpy(numbers(name, tuple(value.shape))))
        tensors[name] = list(value.shape)
    return tensors


def case(model_type, settings):
    config = CONFIG_MAPPING[model_type](**settings)
    model = AutoModelForSeq2SeqLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        tensors = fill(model, settings.get("tie_word_embeddings") is False)
        start = settings["decoder_start_token_id"]
        runs = []
        for length in LENGTHS:
            ids = [int(i * 37 + i * i * 3 + length) % 101 for i in range(length)]
            target = [start] + [(i * 29 + 11 + length) % 101 for i in range(length)]
            out = model(torch.tensor([ids]), decoder_input_ids=torch.tensor([target]),
                        output_attentions=length == ATTENTION_LENGTH)
            rows = sorted({0, length // 2, length - 1})
            run = {"ids": ids, "target": target, "rows": rows,
                   "encoder": [short(out.encoder_last_hidden_state[0, r]) for r in rows],
                   "logits": [short(out.logits[0, r]) for r in rows]}
            if length == ATTENTION_LENGTH:  # [layers][heads * queries * keys] of each kind
                run["attention"] = {kind: [short(layer[0].flatten()) for layer in out[kind + "_attentions"]]
                                    for kind in ("encoder", "decoder", "cross")}
            base = dict(decoder_start_token_id=start, pad_token_id=config.pad_token_id, do_sample=False,
                        max_new_tokens=STEPS)

            def generate(**how):
                # Its own settings alone: none of the model's.
                model.generation_config = GenerationConfig(**base, **how)
                return model.generate(torch.tensor([ids]), return_dict_in_generate=True,
                                      output_scores=True)

            sequence = generate(eos_token_id=None).sequences[0].tolist()
            assert len(sequence) == 1 + STEPS
            run["greedy"] = sequence[1:]
            # Such a model ends nothing by itself: a token that it likes is taken as the end.
            end = sequence[8]
            run["end"], run["searches"] = end, []
            for how in SEARCHES:
                beams = how["num_beams"]
                got = generate(eos_token_id=end, num_return_sequences=beams, **how)
                found = []
                for i, s in enumerate(got.sequences.tolist()):
                    s = s[1:]
                    if end in s:
                        s = s[:s.index(end) + 1]
                    score = None if beams == 1 else float(f"{got.sequences_scores[i]:.7g}")
                    found.append({"ids": s, "score": score})
                run["searches"].append({"asked": how, "found": found})
            runs.append(run)
    return {"config": json.loads(config.to_json_string()), "tensors": tensors, "runs": runs}


def main():
    torch.manual_seed(0)
    out = {"made_by": "tools/golden_translation.py", "torch": torch.__version__,
           "transformers": transformers.__version__,
           "cases": {name: case(*what) for name, what in CASES.items()}}
    path = Path(__file__).resolve().parent.parent / "tests/data/translation.json"
    text = json.dumps(out, separators=(",", ":"))
    path.write_text(text.replace('},"', '},\n"') + "\n")
    print(f"{path}: {path.stat().st_size} bytes, {hashlib.sha256(text.encode()).hexdigest()[:16]}",
          file=sys.stderr)


if __name__ == "__main__":
    main()
