#!/usr/bin/env python3
"""Makes tests/data/tokenizers/pre_patterns.json: for each name of a pre-tokenizer that a GGUF file
may have, hashes of the ids that Hugging Face's tokenizers make of torture.txt with that pattern and
the vocabulary of gpt2.json, and of the words that the tokens are of. Patterns as the models' own tokenizer.json write them.
Made with tokenizers 0.23.3."""

import hashlib
import json
import struct
from pathlib import Path

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

DATA = Path(__file__).resolve().parent.parent / "tests/data/tokenizers"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = (CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED = (r"[^\r\n\p{L}\p{N}]?" + UPPER + "*" + LOWER + "+%s|"
         r"[^\r\n\p{L}\p{N}]?" + UPPER + "+" + LOWER + "*%s|%s| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|"
         r"\s*[\r\n]+|\s+(?!\S)|\s+")
TEKKEN = CASED % ("", "", r"\p{N}")
GPT4O = CASED % (CONTRACTIONS + "?", CONTRACTIONS + "?", r"\p{N}{1,3}")
LETTERS = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def split(*patterns):
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(p), "isolated") for p in patterns] + [LETTERS])


# Name: pre-tokenizer, normal form, whole words.
NAMES = {
    "gpt-2": (GPT2, False, False),
    "mpt": (GPT2, True, False),
    "smollm": (pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2]),
               False, False),
    "llama-bpe": (split(LLAMA3), False, True),
    "dbrx": (split(LLAMA3), False, False),
    "qwen2": (split(QWEN2), True, False),
    "deepseek-r1-qwen": (split(QWEN2), False, False),
    "tekken": (split(TEKKEN), False, True),
    "gpt-4o": (split(GPT4O), False, False),
    "deepseek-coder": (pre_tokenizers.Sequence([
        *(pre_tokenizers.Split(Regex(p), "isolated") for p in (
            r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+")),
        pre_tokenizers.Digits(individual_digits=True), LETTERS]), False, False),
}


def digest(numbers):
    return hashlib.sha256(struct.pack(f"<{len(numbers)}i", *numbers)).hexdigest()


def main():
    text = (DATA / "torture.txt").read_bytes().decode()
    tree = json.loads((DATA / "gpt2.json").read_text())
    out = {}
    for name, (pre, nfc, whole) in NAMES.items():
        tree["model"]["ignore_merges"] = whole
        tokenizer = Tokenizer.from_str(json.dumps(tree))
        tokenizer.pre_tokenizer = pre
        if nfc:
            tokenizer.normalizer = normalizers.NFC()
        encoding = tokenizer.encode(text)
        out[name] = {"count": len(encoding.ids), "ids": digest(encoding.ids),
                     "words": digest(encoding.word_ids)}
    (DATA / "pre_patterns.json").write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
