"""Writes tests/data/tokenizers: small tokenizers, and what Hugging Face's make of texts with them.

    pip install tokenizers sentencepiece && python tools/golden_tokenizers.py FOLDER_OF_TEXTS

The folder holds tinyshakespeare.txt and wikitext2-valid.txt. `torture.txt` is written here;
golden.json has ids and offsets (bytes) of it, hashes of those of the two texts, and ids and offsets
of many short texts for each part of a tokenizer.json by itself. Training breaks ties by chance, so
another run makes other tokenizers. Made with tokenizers 0.23.3, sentencepiece 0.2.3.
"""

import base64
import hashlib
import io
import json
import pathlib
import struct
import sys
import tempfile

import sentencepiece
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        processors, trainers)

TEXTS = pathlib.Path(sys.argv[1])
OUT = pathlib.Path(__file__).parent.parent / "tests" / "data" / "tokenizers"
OUT.mkdir(parents=True, exist_ok=True)

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

TORTURE = [
    "I'm HE'LL they've it's we'd WE'RE don't 'tis o'clock ''s 's",
    "  two   three    four\t\ttabs \t mixed\n\n\nlines\r\n\r\n  indented\n" + " " * 70 + "x" + " " * 33,
    "1 12 123 1234 12345 3.14159 1,000,000 0x1F ½ ²³ Ⅻ ٣٤٥ १२३ ７８",
    "naïve café Ångström ﬁne ẛ̣ ệ é e\u0301 o\u0323\u0302 a\u0300\u0323 q\u0323\u0307 ñ n\u0303 Ǆ",
    "İstanbul Straße STRASSE ΣΊΣΥΦΟΣ ſt K Å",
    "漢字かなカナ한국어조선말 한글 中文，标点。「引用」 ﾊﾝｶｸ ㌔ 豈更",
    "العربية שָׁלוֹם עברית ‏RTL‎ ۱۲۳ हिन्दी ภาษาไทย தமிழ் မြန်မာ",
    "😀👩‍👩‍👧‍👦🏳️‍🌈👍🏽🇩🇪🇯🇵 ☺️ ❤ 🫠 a👍b",
    "\u0378\u05ff\u0e7f \U000e0fff \U0010fffd \ue000 \ufffd \ufeffbom\u200bzero\u200dwidth\u00adsoft",
    "\u00a0nbsp\u2003em\u3000wide\u1680ogham\u2028ls\u2029ps\u0085nel\u180emvs\x0bvt\x0cff\x01\x1f\x7f",
    "_under_score__ a_b-c–d—e…f‘g’“h” «i» ¿j? ¡k! l·m § ¶ † € £ ¥ © ™ ± × ÷ ∑ ≠ $1 a+b=c <|x|> <0x41>",
    "x" * 40 + "ab" * 30 + "\u0301" * 5 + "!" * 12 + "=" * 20,
    "the end<|endoftext|> <|endoftext|>\n<s>word</s> a<mask>b   <mask>  c [MASK] [CLS]x \n",
]
TORTURE_TEXT = "\n".join(TORTURE)


def byte_offsets(text, offsets):
    starts = [0]
    for c in text:
        starts.append(starts[-1] + len(c.encode()))
    return [[starts[b], starts[e]] for b, e in offsets]


def result(tokenizer, text, special=True):
    encoding = tokenizer.encode(text, add_special_tokens=special)
    flat = [at for pair in byte_offsets(text, encoding.offsets) for at in pair]
    return encoding.ids, flat, encoding.special_tokens_mask


def digest(numbers):
    return hashlib.sha256(struct.pack(f"<{len(numbers)}i", *numbers)).hexdigest()


texts = {name: (TEXTS / name).read_bytes().decode()
         for name in ("tinyshakespeare.txt", "wikitext2-valid.txt")}
corpus = [text[i:i + 1000] for text in texts.values() for i in range(0, 200_000, 1000)] + TORTURE
golden = {"tokenizers": {}, "models": {}, "cases": []}


def save(name, tokenizer, change=lambda tree: None):
    tree = json.loads(tokenizer.to_str())
    change(tree)
    data = json.dumps(tree, ensure_ascii=False, separators=(",", ":"))
    (OUT / f"{name}.json").write_text(data)
    tokenizer = Tokenizer.from_str(data)
    ids, offsets, special = result(tokenizer, TORTURE_TEXT)
    entry = {"ids": ids, "offsets": offsets, "special": special, "size": len(tokenizer.get_vocab()),
             "decoded": tokenizer.decode(ids), "texts": {}}
    pair = tokenizer.encode("One two.", "Three", add_special_tokens=True)
    entry["pair"] = {"ids": pair.ids, "types": pair.type_ids}
    for file, text in texts.items():
        ids, offsets, _ = result(tokenizer, text)
        entry["texts"][file] = {"count": len(ids), "ids": digest(ids), "offsets": digest(offsets)}
    golden["tokenizers"][name] = entry


def bpe(special, pre, size=700, alphabet=True, **model):
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if alphabet else [])
    return tokenizer, trainer


def merges_as_text(tree):
    tree["model"]["merges"] = [" ".join(pair) for pair in tree["model"]["merges"]]


# GPT-2.
t, trainer = bpe(["<|endoftext|>"], pre_tokenizers.ByteLevel(add_prefix_space=False), size=1000)
t.train_from_iterator(corpus, trainer)
t.post_processor = processors.ByteLevel(trim_offsets=True)
t.decoder = decoders.ByteLevel()
save("gpt2", t, merges_as_text)

# RoBERTa: a space in front, trimmed offsets, a mask that takes the spaces before it.
t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
t.add_special_tokens([AddedToken("<s>"), AddedToken("</s>"), AddedToken("<mask>", lstrip=True)])
t.post_processor = processors.RobertaProcessing(("</s>", t.token_to_id("</s>")),
                                                ("<s>", t.token_to_id("<s>")))
save("roberta", t)

# LLaMA 3.
t, trainer = bpe([], pre_tokenizers.Sequence([
    pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]), ignore_merges=True)
t.train_from_iterator(corpus, trainer)
t.add_special_tokens(["<|begin_of_text|>", "<|endoftext|>"])
t.add_tokens([AddedToken("<|x|>", normalized=False)])
bos = t.token_to_id("<|begin_of_text|>")
t.post_processor = processors.Sequence([
    processors.ByteLevel(trim_offsets=False),
    processors.TemplateProcessing("<|begin_of_text|> $A", "<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
                                  [("<|begin_of_text|>", bos)])])
t.decoder = decoders.ByteLevel()
save("llama3", t)

# Qwen2, and GPT-NeoX's form.
t.normalizer = normalizers.NFC()
t.pre_tokenizer = pre_tokenizers.Sequence([
    pre_tokenizers.Split(Regex(QWEN2), "isolated"),
    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
t.post_processor = processors.ByteLevel(trim_offsets=False)
save("qwen2", t)

# SmolLM2.
t, trainer = bpe(["<|endoftext|>"], pre_tokenizers.Sequence([
    pre_tokenizers.Digits(individual_digits=True),
    pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)]))
t.train_from_iterator(corpus, trainer)
t.decoder = decoders.ByteLevel()
save("smollm2", t)

# LLaMA 2: no words, bytes for what has no piece.
t, trainer = bpe(["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)],
                 pre_tokenizers.Metaspace(), size=900, alphabet=False, unk_token="<unk>", fuse_unk=True,
                 byte_fallback=True)
trainer.limit_alphabet = 80
t.train_from_iterator(corpus, trainer)
t.pre_tokenizer = None
t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
t.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B:1", [("<s>", 1)])
t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                               decoders.Strip(" ", 1, 0)])


def only_three_added(tree):
    tree["added_tokens"] = [a for a in tree["added_tokens"] if not a["content"].startswith("<0x")]


save("llama2", t, only_three_added)

# WordPiece, as BERT has it.
t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
t.normalizer = normalizers.BertNormalizer()
t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
t.decoder = decoders.WordPiece()
t.train_from_iterator(corpus, trainers.WordPieceTrainer(
    vocab_size=900, limit_alphabet=120, show_progress=False,
    special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
t.post_processor = processors.TemplateProcessing(
    "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 2), ("[SEP]", 3)])
save("wordpiece", t)

# Unigram, as XLM-R and T5 have it, without and with bytes for what has no piece.
t = Tokenizer(models.Unigram())
t.normalizer = normalizers.Sequence([normalizers.NFKC(),
                                     normalizers.Replace(Regex(" {2,}"), " ")])
t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
t.decoder = decoders.Metaspace(prepend_scheme="first")
t.train_from_iterator(corpus, trainers.UnigramTrainer(
    vocab_size=800, show_progress=False, unk_token="<unk>", special_tokens=["<unk>", "<s>", "</s>"]))
save("unigram", t)


def with_bytes(tree):
    model = tree["model"]
    model["vocab"] = model["vocab"][:500] + [[f"<0x{b:02X}>", -20.0] for b in range(256)]
    model["byte_fallback"] = True
    tree["decoder"] = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, tree["decoder"]]}


save("unigram_bytes", t, with_bytes)

# Parts by themselves. With "words" every word is one token; with "bytes" every byte is one.
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
golden["models"] = {
    "words": '{"type":"BPE","vocab":{"?":0},"merges":[],"unk_token":"?","fuse_unk":true}',
    "bytes": json.dumps({"type": "BPE", "merges": [], "vocab": {c: i for i, c in enumerate(letters)}},
                        ensure_ascii=False, separators=(",", ":")),
}
SHORT = ["", " ", "a", "Hello, world!  It's 2024.", "the-final--countdown-", "-x-", "  lead trail  ",
         "a1b22 ½c Ⅳ٣", "x_y z\u200dw é e\u0301", "tab\tnl\n\nend\n", "é ô\u0323 q\u0323\u0307 ﬁ ½ Å 한글 각 ẛ̣",
         "漢字 and 中。", "👩‍👧 ok", "▁under▁score", "ΑΣ İx ǅ", "\u0301lead", "a\u0300\u0323b\u0323\u0300",
         "abc<a>  <b> x<a>y <b>", "aaaa b", "\u00a0\u3000x\u2009"]


def case(model, texts=SHORT, **parts):
    tree = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
            "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None}
    tree.update(parts)
    rendered = {k: json.dumps(v, ensure_ascii=False, separators=(",", ":")) for k, v in tree.items()}
    text = "{" + ",".join(f'"{k}":{v}' for k, v in rendered.items()) + ',"model":'
    tokenizer = Tokenizer.from_str(text + golden["models"][model] + "}")
    results = []
    for x in texts:
        ids, offsets, _ = result(tokenizer, x)
        results.append([x, offsets] if model == "words" else [x, offsets, ids])
    golden["cases"].append({"model": model, "head": text, "results": results})


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
for kind in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"):
    case("bytes", normalizer={"type": kind}, pre_tokenizer=BYTES)
case("bytes", normalizer={"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"},
                                                             {"type": "NFC"}]}, pre_tokenizer=BYTES)
for left, right in ((True, True), (True, False), (False, True)):
    case("bytes", normalizer={"type": "Strip", "strip_left": left, "strip_right": right},
         pre_tokenizer=BYTES)
case("bytes", normalizer={"type": "Prepend", "prepend": "▁x"}, pre_tokenizer=BYTES)
for pattern, content in (({"String": "a"}, "XYZ"), ({"Regex": r"\s+"}, " "), ({"Regex": "[^a-z]"}, ""),
                         ({"String": "é"}, "ee")):
    case("bytes", normalizer={"type": "Replace", "pattern": pattern, "content": content},
         pre_tokenizer=BYTES)
for clean, split, accents, lower in ((True, True, None, True), (False, True, False, False),
                                     (True, False, True, False), (False, False, None, True)):
    case("bytes", normalizer={"type": "BertNormalizer", "clean_text": clean,
                              "handle_chinese_chars": split, "strip_accents": accents,
                              "lowercase": lower}, pre_tokenizer=BYTES)
for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
    for invert in (False, True):
        case("words", texts=SHORT[:9], pre_tokenizer={
            "type": "Split", "pattern": {"String": "-"}, "behavior": behavior, "invert": invert})
    case("words", texts=SHORT[:9], pre_tokenizer={"type": "Punctuation", "behavior": behavior})
for pattern in (r"\w+", r"\W", r"[^\s\S]|\s", r"\d+|[\D]", r"(?i)A|l", r"^.|$", r"\S+?", r"[\w']++| ",
                r"(?<=a)|x(?!y)", r"[\u4e00-\u9fff]|\x{e9}", r"\p{Lu}|\p{^L}", r" ?+\S{2,3}"):
    case("words", pre_tokenizer={"type": "Split", "pattern": {"Regex": pattern},
                                 "behavior": "Isolated", "invert": False})
for kind in ("Whitespace", "WhitespaceSplit", "BertPreTokenizer"):
    case("words", pre_tokenizer={"type": kind})
for single in (True, False):
    case("words", pre_tokenizer={"type": "Digits", "individual_digits": single})
for scheme in ("always", "first", "never"):
    for cut in (True, False):
        case("words", pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme,
                                     "split": cut})
for prefix in (True, False):
    for trim in (True, False):
        level = {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": trim}
        case("bytes", texts=SHORT[:9], pre_tokenizer=level, post_processor=level)


def fields(message):
    """Numbers and contents of a protocol buffer's fields that have a length."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 2:
            size = varint()
            yield key >> 3, message[at:at + size]
            at += size
        elif key & 7 == 0:
            varint()
        else:
            at += {1: 8, 5: 4}[key & 7]


def charsmap(rules):
    """SentencePiece's table for these rules: ModelProto.normalizer_spec.precompiled_charsmap."""
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as file:
        for source, target in rules:
            file.write("\t".join(" ".join(f"{ord(c):X}" for c in x) for x in (source, target)) + "\n")
        file.flush()
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["a b c d e"]), model_writer=model, vocab_size=12,
            model_type="char", normalization_rule_tsv=file.name, minloglevel=2)
    spec = dict(fields(model.getvalue()))[3]
    return base64.b64encode(dict(fields(spec))[2]).decode()


RULES = [("ﬁ", "fi"), ("½", "1⁄2"), ("é", "e"), ("e\u0301", "E"), ("\u200d", ""), ("\t", " "), ("\n", " "),
         ("\u3000", " "), ("漢", "汉"), ("--", "—"), ("1", "one"), ("1b", "X"), ("…", "..."), ("\u0301", ""),
         ("각", "\u1100\u1161\u11a8"), ("👩", "woman")]
case("bytes", normalizer={"type": "Precompiled", "precompiled_charsmap": charsmap(RULES)},
     pre_tokenizer=BYTES)


def added(id, content, **more):
    token = {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": False}
    return {**token, **more}


case("words", added_tokens=[added(1, "<a>", lstrip=True, special=True), added(2, "<b>", rstrip=True)])
case("words", added_tokens=[added(1, "a", single_word=True), added(2, "ab"), added(3, "x", normalized=True)])
case("words", normalizer={"type": "Lowercase"}, pre_tokenizer={"type": "WhitespaceSplit"},
     added_tokens=[added(1, "HELLO", normalized=True), added(2, "It"), added(3, "aa"), added(4, "aaa")])
case("words", normalizer={"type": "Prepend", "prepend": "▁"}, added_tokens=[
    added(1, "<a>", rstrip=True, lstrip=True), added(2, "score", normalized=True)],
     pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True})

(OUT / "torture.txt").write_bytes(TORTURE_TEXT.encode())
(OUT / "golden.json").write_text(json.dumps(golden, ensure_ascii=False, separators=(",", ":")))
