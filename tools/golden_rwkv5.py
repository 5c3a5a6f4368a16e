#!/usr/bin/env python3
"""Makes tests/data/rwkv5.json, small RWKV-5 models as the published code runs them, and
tests/data/tokenizers/world.*, a small vocabulary of RWKV's "World" tokenizer and what the published one
makes of texts. Weights come from the formula of tools/golden_families.py.

golden_rwkv5.py FOLDER, with modeling_rwkv5.py and configuration_rwkv5.py of the Hub's
RWKV/rwkv-5-world-1b5 (Apache-2.0, also rwkv5_model in github.com/BBuf/RWKV-World-HF-Tokenizer, here at
699270b) and rwkv_tokenizer.py (BlinkDL/ChatRWKV). Run it with an environment that has torch and
transformers; the files name their versions."""

import importlib
import json
import sys
import types
from pathlib import Path

import torch
from golden_families import case_of, short, write

DATA = Path(__file__).resolve().parent.parent / "tests/data"
SIZES = dict(vocab_size=101, hidden_size=60, num_hidden_layers=2)
CASES = {
    "rwkv5": dict(SIZES, head_size=20),
    "rwkv5, widths": dict(SIZES, head_size=12, head_size_divisor=3, intermediate_size=76,
                          layer_norm_epsilon=1e-3),
}


def published(folder):
    """The modules of a folder; the model's asks for a package of CUDA kernels that it does without."""
    kernels = types.ModuleType("flash_rwkv")
    kernels.rwkv5_cuda_linear_attention = None
    versions = types.ModuleType("pkg_resources")
    versions.parse_version = lambda text: text
    versions.get_distribution = lambda name: types.SimpleNamespace(parsed_version="9")
    versions.DistributionNotFound = type("DistributionNotFound", (Exception,), {})
    sys.modules.update(flash_rwkv=kernels, pkg_resources=versions)
    package = types.ModuleType("published")
    package.__path__ = [folder]
    sys.modules["published"] = package
    return [importlib.import_module(f"published.{name}")
            for name in ("configuration_rwkv5", "modeling_rwkv5", "rwkv_tokenizer")]


def case(configuration, modeling, settings):
    config = configuration.Rwkv5Config(**settings, eos_token_id=None)
    config.intermediate_size = settings.get("intermediate_size")  # which that class forgets
    model = modeling.Rwkv5ForCausalLM(config).eval()
    out = case_of(config, model)
    # After the longest text: the last tokens as both branches read them, and the heads' states.
    with torch.no_grad():
        attention, heads, forward = model(torch.tensor([out["runs"][-1]["ids"]])).state
    out["states"] = [
        short(torch.cat([part[..., layer].flatten() for part in (attention, forward, heads)]))
        for layer in range(config.num_hidden_layers)]
    with torch.no_grad():
        out["implied"] = implied(model, out["runs"][1]["ids"])
    return out


def implied(model, ids, layer=1):
    """The attention that a layer implies, [heads][L][L], from what its projections put out: a_ij is the sum
    over a head's channels of r_i w^(i - 1 - j) k_j with w = exp(-exp(decay)), of r_i u k_i for itself."""
    seen, a = {}, model.rwkv.blocks[layer].attention
    for name in ("key", "receptance"):
        getattr(a, name).register_forward_hook(lambda _, __, y, name=name: seen.update({name: y[0]}))
    model(torch.tensor([ids]))
    heads = a.time_decay.shape[0]
    k, r = (seen[name].unflatten(-1, (heads, -1)).double() for name in ("key", "receptance"))
    place = torch.arange(len(ids))
    back = (place[:, None] - place[None, :] - 1)[:, :, None, None]
    w = torch.where(back >= 0, torch.exp(-back * torch.exp(a.time_decay.double())), 0.0)
    w += torch.eye(len(ids))[:, :, None, None] * a.time_faaaa.double()
    rows = torch.einsum("ihc,ijhc,jhc->hij", r, w, k).abs()
    return [[short(row) for row in head] for head in rows / rows.sum(-1, keepdim=True)]


def vocabulary(text):
    """Every byte, and what occurs twice or more in a text, up to 12 bytes long."""
    pieces = [bytes([b]) for b in range(256)]
    for length in range(2, 13):
        counts = {}
        for at in range(len(text) - length + 1):
            counts[text[at:at + length]] = counts.get(text[at:at + length], 0) + 1
        often = sorted(counts, key=lambda piece: (-counts[piece], piece))
        pieces += sorted(piece for piece in often[:40] if counts[piece] > 1)
    return pieces


def literal(piece):
    try:
        return repr(piece.decode())
    except UnicodeDecodeError:
        return repr(piece)


def world(tokenizer_module):
    folder = DATA / "tokenizers"
    torture = (folder / "torture.txt").read_bytes()
    # Of what tokenizers are tried on, and some of what literals have to escape.
    source = torture + b"\t'\"\\\n\r\n\t'\"\\\n\r\n\xe2\x80\xa8\xe2\x80\xa8 the of  \n  \n    the of"
    pieces = vocabulary(source)
    numbered = folder / "world.txt"
    numbered.write_bytes(b"".join(f"{i + 1} {literal(p)} {len(p)}\n".encode()
                                  for i, p in enumerate(pieces)))
    bare = folder / "world_bare.txt"
    bare.write_bytes(b"b'<s>'\n" + b"".join(f"{p!r}\n".encode() for p in pieces))
    tokenizer = tokenizer_module.TRIE_TOKENIZER(str(numbered))
    texts = [b"", b" ", b"the cat  sat\n\n\n", torture, source, bytes(range(256)),
             b"\xe2\x80\xa8\xe2\x80\xff\xf0\x9f\x98"]
    out = {"made_by": "tools/golden_rwkv5.py",
           "texts": [{"hex": text.hex(), "ids": tokenizer.encodeBytes(text)} for text in texts]}
    path = folder / "world.json"
    path.write_text(json.dumps(out, separators=(",", ":")).replace("},", "},\n") + "\n")
    for file in (numbered, bare, path):
        print(f"{file}: {file.stat().st_size} bytes, {len(pieces)} pieces")


def main():
    configuration, modeling, tokenizer = published(sys.argv[1])
    torch.manual_seed(0)
    write("rwkv5.json", {name: case(configuration, modeling, what) for name, what in CASES.items()},
          "tools/golden_rwkv5.py")
    world(tokenizer)


if __name__ == "__main__":
    main()
