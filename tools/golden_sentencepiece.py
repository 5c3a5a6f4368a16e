#!/usr/bin/env python3
"""Makes tests/data/sentencepiece: small models trained on assets/text/tinyshakespeare.txt, and what
SentencePiece's Python module and Transformers' tokenizers make of texts with them.

Run it with an environment that has torch, transformers and sentencepiece:
golden_sentencepiece.py TINYSHAKESPEARE"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import sentencepiece
import transformers
from transformers import MarianTokenizer, T5Tokenizer

# Rules of normalisation, few, because the published ones take 240 KB: what a character becomes.
RULES = {"\uff21": "A", "\u00a0": " ", "\u3000": " ", "\t": " ", "\n": " ", "\u200b": " ", "\ufb01": "fi",
         "e\u0301": "\u00e9", "\u2026": "..."}
TEXTS = [
    "", " ", "The king is dead.", "  two  spaces and one at the end ", "ROMEO: wherefore art thou?",
    "\uff21 \ufb01ne caf\u00e9, cafe\u0301\u2026", "\u6f22\u5b57 and emoji \U0001F642\U0001F642 end",
    "tabs\tand\nlines\r\n", "no\u00a0break\u3000space", "\u0645\u0631\u062d\u0628\u0627",
    "Unaffordability of antidisestablishmentarianism", "a</s>b", "x <extra_id_0> y<extra_id_99>",
    "<unk> <pad>", "\u2581already\u2581marked", ">>fr<< the king", "king >>fr<< king", "0123456789 3.14",
]


def train(text, path, **settings):
    rules = path.with_suffix(".tsv")
    rules.write_text("".join(
        " ".join(f"{ord(c):X}" for c in a) + "\t" + " ".join(f"{ord(c):X}" for c in b) + "\n"
        for a, b in RULES.items()))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(path), normalization_rule_tsv=str(rules), num_threads=1,
        minloglevel=2, **settings)
    return path.with_suffix(".model")


def pieces(model, text):
    s = sentencepiece.SentencePieceProcessor(model_file=str(model))
    encoded = s.encode(text, return_type="proto")
    return {"ids": [p.id for p in encoded.pieces], "decoded": s.decode([p.id for p in encoded.pieces]),
            "offsets": [[p.begin, p.end] for p in encoded.pieces]}


def main():
    text = Path(sys.argv[1])
    folder = Path(__file__).resolve().parent.parent / "tests/data/sentencepiece"
    folder.mkdir(exist_ok=True)
    out = {"made_by": "tools/golden_sentencepiece.py", "sentencepiece": sentencepiece.__version__,
           "transformers": transformers.__version__, "texts": TEXTS}
    with tempfile.TemporaryDirectory() as name:
        tmp = Path(name)
        t5 = train(text, tmp / "t5", vocab_size=300, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
        bpe = train(text, tmp / "bpe", vocab_size=400, model_type="bpe", byte_fallback=True)
        source = train(text, tmp / "source", vocab_size=250)
        target = train(text, tmp / "target", vocab_size=200, model_type="bpe")
        # Marian's vocabulary: both sides' pieces by other ids, some left out.
        names = ["</s>", "<unk>", ">>fr<<"]
        for model in (source, target):
            s = sentencepiece.SentencePieceProcessor(model_file=str(model))
            names += [p for i in range(3, s.vocab_size()) if (p := s.id_to_piece(i)) not in names and i % 17]
        vocabulary = {p: i for i, p in enumerate(names + ["<pad>"])}
        (tmp / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
        for made, name in ((t5, "t5.model"), (bpe, "bpe.model"), (source, "source.spm"),
                           (target, "target.spm"), (tmp / "vocab.json", "vocab.json")):
            shutil.copy(made, folder / name)
    out["t5"] = [pieces(folder / "t5.model", t) for t in TEXTS]
    out["bpe"] = [pieces(folder / "bpe.model", t) for t in TEXTS]
    t5 = T5Tokenizer.from_pretrained(str(folder), vocab_file=str(folder / "t5.model"))
    out["transformers t5"] = [{"ids": t5(t).input_ids, "decoded": t5.decode(t5(t).input_ids, skip_special_tokens=True)}
                              for t in TEXTS]
    marian = MarianTokenizer(str(folder / "source.spm"), str(folder / "target.spm"), str(folder / "vocab.json"))
    out["transformers marian"] = [{"ids": marian(t).input_ids, "target": marian(text_target=t).input_ids,
                                   "decoded": marian.decode(marian(text_target=t).input_ids, skip_special_tokens=True)}
                                  for t in TEXTS]
    path = folder / "golden.json"
    path.write_text(json.dumps(out, separators=(",", ":"), ensure_ascii=False).replace("},{", "},\n{") + "\n")
    print(sum(f.stat().st_size for f in folder.iterdir()), "bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
