#!/usr/bin/env python3
"""Makes tests/data/minilm.json: golden token ids, embeddings and attention rows of
all-MiniLM-L6-v2, computed with PyTorch and transformers.

  python tools/golden_minilm.py MODEL_FOLDER tests/data/minilm.json

Needs torch and transformers. Numbers are float32, little-endian, base64. Embeddings are the mean of
the last hidden states over all tokens, scaled to length 1, of texts cut at 256 tokens.
"""

import base64
import json
import sys

import numpy as np
import torch
import transformers

LONG = " ".join(
    f"Sentence {i} of a long report: the river rose by {i % 7} centimetres, and nobody noticed."
    for i in range(40)
)

# Twenty inputs for embeddings; a list is a pair.
EMBEDDED = [
    "The cat sat on the mat.",
    "A feline was resting on a rug.",
    "Stock markets fell sharply on Monday.",
    "",
    "a",
    "Hello, world! How are you -- fine? (Yes; \"very\" fine...)",
    "Café déjà vu, naïve façade, São Paulo, Ångström, crème brûlée",
    "Cafe\u0301 de\u0301ja\u0300 vu with combining marks",
    "日本語のテキストと漢字 mixed with English",
    "我爱自然语言处理",
    "I love pizza 🍕 and 😀 emoji 👩‍👩‍👧",
    "שלום עולם and مرحبا بالعالم",
    "Привет, мир! Как дела?",
    "antidisestablishmentarianism electroencephalographically",
    "e = mc^2; f(x) = \\frac{1}{x}; $9.99 & 50% @home #tag",
    "   lots   of \t white\n\nspace\r\n everywhere   ",
    "UPPER CASE and MiXeD cAsE",
    LONG,
    ["What is the capital of France?", "Paris is the capital and largest city of France."],
    ["Short.", LONG],
]

# Inputs whose token ids must agree exactly; bytes, as they may not be UTF-8.
TORTURE = [
    b"[CLS] and [SEP] and [MASK] and [PAD] and [UNK] in a text[MASK]glued [mask] [ MASK ]",
    b"invalid \xff\xfe bytes \xc3( and a cut \xe2\x82 sequence \xed\xa0\x80 surrogate \xf8\x88 end\x80",
    b"nul \x00 bell \x07 vertical\x0btab form\x0cfeed delete\x7f c1 \xc2\x85next\xc2\x9f",
    "zero\u200bwidth \u200djoiner \u00adsoft-hyphen \ufeffbom \u2060wj \u200e\u200fmarks".encode(),
    "spaces:\u00a0nbsp\u1680ogham\u2003em\u2009thin\u202fnarrow\u205fmath\u3000wide\u2028line\u2029par".encode(),
    b"x" * 100 + b" " + b"y" * 101 + b" " + b"a" * 99,
    ("é" * 100 + " " + "é" * 101).encode(),
    b" " * 3000,
    (" " * 500 + "middle" + "\t" * 500).encode(),
    b"!!!???...,,,;;;:::---___***###@@@~~~```^^^|||\\\\\\///<<<>>>{{{}}}",
    "“curly” ‘quotes’ – en — em … ellipsis « guillemets » ¿qué? ¡sí! ‽ 、。「」".encode(),
    "İstanbul ISPARTA ıssız Σίσυφος ΣΑΣ ß ẞ ŒUVRE Ǆ ǅ ﬁ ﬂ Å K Ω".encode(),
    "한국어 텍스트 조선말 ᄒᆞᆫ글".encode(),
    "ไทย ภาษา हिन्दी भाषा বাংলা தமிழ் తెలుగు ქართული հայերեն አማርኛ".encode(),
    "עִבְרִית עם ניקוד العَرَبِيَّة بالتشكيل فارسی ۱۲۳ ١٢٣".encode(),
    "a\u0301\u0323\u0302 o\u0308\u0304 z\u0335\u0338 q\u20dd t\u0361s e\u0300\u0316\u0301\u0317".encode(),
    "Z̸̢͇̙͗̀a̴̪̓l̵̡͝g̷̰̈́o̶̟͛ text".encode(),
    "👩🏽‍🚀 🇫🇷 1️⃣ ☺️ ✂︎ ♥ ™ ® © № ½ ² ³ ₤ € ¥ ₹ ₿".encode(),
    "㐀㐁 𠀀𠀁 豈更 𪜀 ⼀ 々 〇 ヶ ﾊﾝｶｸ ＦＵＬＬ ｗｉｄｔｈ ①②③".encode(),
    "mixed漢字and漢字again。次の文！third？".encode(),
    "don't can't won't it's rock'n'roll O'Neill's 'quoted' ''double''".encode(),
    "https://example.com/path?query=value&x=1#frag user.name+tag@mail.example.co.uk".encode(),
    "1234567890 3.14159 -1e-10 0xDEADBEEF 1,000,000 12:34:56 2024-01-31".encode(),
    "snake_case camelCase kebab-case PascalCase SCREAMING_CASE dotted.name a/b\\c".encode(),
    "##ing ## # #hash [UNK [SEP ]CLS] [[CLS]] [CLS][SEP]".encode(),
    "\ue000private \uf8ff use \U000f0000 planes \ufffd replacement \ufffe\uffff non".encode(),
    "\u0378 unassigned \u05ff \U0001fbff \U000e0041tag".encode(),
    "unbreakable" .encode() * 30,
    "".encode(),
    "\u0301".encode(),
    "\u0301\u0302 \u200b \x00".encode(),
    "ạ̈ ự ộ ể Việt Nam tiếng Đường".encode(),
    "¹ªº ¼ µ Å ´ ¨ ¯ ¸ ˚ ˜ ˝ ΅ ͺ".encode(),
    "\r\n\r\nline\rone\nline two\r\n".encode(),
]

# Pairs at small lengths: which tokens stay.
TRUNCATED = [
    ("one two three four five six seven eight", None, 6),
    ("one two three four five six seven eight", None, 2),
    ("one two three four five six", "seven eight", 8),
    ("one two", "three four five six seven eight nine", 8),
    ("one two three four five", "six seven eight nine ten", 10),
    ("one two three four five six", "seven eight nine ten eleven", 8),
    ("one two three", "four five six", 3),
    ("one two three", "four five six", 4),
]

# (index into EMBEDDED, layer, head): all rows are kept.
ATTENTION = [(0, 0, 0), (0, 2, 7), (0, 5, 11), (6, 1, 3), (8, 3, 5), (18, 4, 9)]


def pack(array):
    return base64.b64encode(np.ascontiguousarray(array, dtype="<f4").tobytes()).decode()


def main():
    folder, target = sys.argv[1:]
    tokenizer = transformers.BertTokenizer.from_pretrained(folder)
    backend = getattr(tokenizer, "backend_tokenizer", None) or tokenizer._tokenizer
    backend.no_padding()
    backend.no_truncation()
    model = transformers.BertModel.from_pretrained(folder, attn_implementation="eager")
    model.eval()

    def encode(text, pair=None, limit=None):
        out = tokenizer(
            text,
            pair,
            truncation="longest_first" if limit else False,
            max_length=limit,
            return_offsets_mapping=True,
        )
        backend.no_truncation()
        return out

    embedded, states = [], []
    for item in EMBEDDED:
        text, pair = item if isinstance(item, list) else (item, None)
        encoding = encode(text, pair, 256)
        with torch.no_grad():
            out = model(
                input_ids=torch.tensor([encoding["input_ids"]]),
                token_type_ids=torch.tensor([encoding["token_type_ids"]]),
                output_attentions=True,
            )
        states.append(out)
        mean = out.last_hidden_state[0].double().mean(0)
        entry = {
            "text": text,
            "ids": encoding["input_ids"],
            "types": encoding["token_type_ids"],
            "embedding": pack((mean / mean.norm()).numpy()),
        }
        if pair is not None:
            entry["pair"] = pair
        embedded.append(entry)

    torture = []
    for raw in TORTURE:
        text = raw.decode("utf-8", errors="replace")
        encoding = encode(text)
        torture.append({"hex": raw.hex(), "ids": encoding["input_ids"]})

    truncated = []
    for text, pair, limit in TRUNCATED:
        encoding = encode(text, pair, limit)
        entry = {"text": text, "max_length": limit, "ids": encoding["input_ids"],
                 "types": encoding["token_type_ids"]}
        if pair is not None:
            entry["pair"] = pair
        truncated.append(entry)

    attention = [
        {"text": index, "layer": layer, "head": head,
         "rows": pack(states[index].attentions[layer][0, head].numpy())}
        for index, layer, head in ATTENTION
    ]
    hidden = {"text": 0, "states": pack(states[0].last_hidden_state[0].numpy())}
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    lines = {"made_with": versions, "embedded": embedded, "torture": torture,
             "truncated": truncated, "attention": attention, "hidden": hidden}
    with open(target, "w", encoding="ascii") as file:
        json.dump(lines, file, indent=0)
        file.write("\n")


if __name__ == "__main__":
    main()
