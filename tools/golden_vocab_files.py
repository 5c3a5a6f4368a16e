#!/usr/bin/env python3
"""Makes tests/data/tokenizers/vocab_files.json: RoBERTa's and GPT-2's tokenizers as Transformers makes
them of vocab.json and merges.txt, here those of tests/data/tokenizers/gpt2.json with RoBERTa's special
tokens behind them. Run it with an environment that has transformers."""

import json
from pathlib import Path

import transformers
from transformers import AddedToken, GPT2Tokenizer, RobertaTokenizer

DATA = Path(__file__).resolve().parent.parent / "tests/data/tokenizers"
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
PAIRS = [("The <mask> is  here.", None), ("", None), ("a", "b c"),
         ("the first of two texts", "and the second, which is longer than it"),
         ("<s>the</s> \U0001F600 <mask>", " x")]


def encoded(tokenizer, first, second=None, **more):
    out = tokenizer(first, second, return_offsets_mapping=True, return_token_type_ids=True, **more)
    # Offsets in bytes of the texts.
    offsets = []
    for index, (begin, end) in enumerate(out["offset_mapping"]):
        which = out.sequence_ids()[index]
        text = second if which == 1 else first
        offsets += [len(text[:begin].encode()), len(text[:end].encode())]
    words = [-1 if w is None else w for w in out.word_ids()]
    return {"first": first, "second": second, "ids": out["input_ids"],
            "types": out["token_type_ids"], "offsets": offsets, "words": words}


def main():
    model = json.loads((DATA / "gpt2.json").read_text())["model"]
    merges = [tuple(m.split(" ")) for m in model["merges"]]
    vocabulary = dict(model["vocab"])
    gpt2 = GPT2Tokenizer(vocab=dict(vocabulary), merges=merges)
    for token in SPECIAL:
        vocabulary[token] = len(vocabulary)
    # As the published tokenizer.json has it, and version 4 of Transformers by default.
    mask = AddedToken("<mask>", lstrip=True, special=True)
    roberta = RobertaTokenizer(vocab=vocabulary, merges=merges, mask_token=mask)
    torture = (DATA / "torture.txt").read_bytes().decode()
    texts = PAIRS + [(torture, None)]
    out = {"made_by": "tools/golden_vocab_files.py", "transformers": transformers.__version__,
           "gpt2": [encoded(gpt2, first) for first, _ in texts],
           "roberta": [encoded(roberta, *pair) for pair in texts],
           "roberta_within_9": [encoded(roberta, *pair, truncation="longest_first", max_length=9)
                                for pair in texts]}
    for case in out["gpt2"] + out["roberta"] + out["roberta_within_9"]:
        if case["first"] == torture:
            case["first"] = None  # the file's
    path = DATA / "vocab_files.json"
    path.write_text(json.dumps(out, separators=(",", ":"), ensure_ascii=False) + "\n")
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
