"""A language model and an encoder of SmolLM2's and MiniLM's shape (random weights) beside Hugging
Face Transformers on PyTorch SDPA, the encoder beside ONNX Runtime too, in turns, in one process,
float32: `make bench-models`.

Prefill is the time from the prompt to the logits of its last token, decoding the time of each token
after that. The logits are compared before anything is timed. Compared is best with best; exit 1
when they differ.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import attn
import numpy as np
import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

VOCABULARY = 49152
TOKENS = 32  # decoded in a sample
PAUSE = 0.03  # threads of the one before spin on after a run
TOLERANCE = 1e-3  # of the largest logit


def say(text):
    print(text, file=sys.stderr, flush=True)


def write_tokenizer(folder):
    """The least that is a tokenizer: the models are given ids."""
    (folder / "tokenizer.json").write_text(
        json.dumps({
            "version": "1.0",
            "added_tokens": [],
            "normalizer": None,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            "post_processor": None,
            "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            "model": {"type": "BPE", "vocab": {f"t{i}": i for i in range(VOCABULARY)}, "merges": []},
        }))


def language_model(folder):
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=576, intermediate_size=1536,
                         num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
                         max_position_embeddings=8192, rope_theta=100000.0,
                         tie_word_embeddings=True, attn_implementation="sdpa")
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return model


def encoder(folder):
    torch.manual_seed(0)
    config = BertConfig(vocab_size=30522, hidden_size=384, intermediate_size=1536,
                        num_hidden_layers=6, num_attention_heads=12,
                        attn_implementation="sdpa")
    model = BertModel(config, add_pooling_layer=False).eval()
    model.save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]
    words += [f"[unused{i}]" for i in range(config.vocab_size - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return model


def onnx_session(model, threads):
    """The encoder in ONNX Runtime's fused operators, which its own optimizer would make of it."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    weights, nodes = [], []

    def weight(name, values):
        weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def parameter(name):
        return weight(name, state[name].numpy())

    def node(kind, inputs, domain="", **attributes):
        name = f"{kind}_{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [name], domain=domain, **attributes))
        return name

    def fused(kind, inputs, **attributes):
        return node(kind, inputs, "com.microsoft", **attributes)

    def product(x, name):
        return node("MatMul", [x, weight(name + ".transposed", state[name + ".weight"].numpy().T)])

    def linear(x, name):
        return node("Add", [product(x, name), parameter(name + ".bias")])

    def add_and_norm(x, branch, name):
        return fused("SkipLayerNormalization",
                     [x, branch, parameter(name + ".weight"), parameter(name + ".bias")],
                     epsilon=model.config.layer_norm_eps)

    state = {name: value.detach() for name, value in model.state_dict().items()}
    words = node("Gather", [parameter("embeddings.word_embeddings.weight"), "ids"])
    place = state["embeddings.position_embeddings.weight"] + state["embeddings.token_type_embeddings.weight"][0]
    places = node("Slice", [weight("places", place.numpy()), weight("zero", np.array([0])),
                            node("Slice", [node("Shape", ["ids"]), weight("one", np.array([1])),
                                           weight("two", np.array([2]))])])
    x = node("LayerNormalization",
             [node("Add", [words, places]), parameter("embeddings.LayerNorm.weight"),
              parameter("embeddings.LayerNorm.bias")], epsilon=model.config.layer_norm_eps)
    for i in range(model.config.num_hidden_layers):
        layer = f"encoder.layer.{i}."
        heads = [linear(x, layer + f"attention.self.{part}") for part in ("query", "key", "value")]
        seen = fused("MultiHeadAttention", heads, num_heads=model.config.num_attention_heads)
        x = add_and_norm(x, linear(seen, layer + "attention.output.dense"),
                         layer + "attention.output.LayerNorm")
        name = layer + "intermediate.dense"
        wide = fused("BiasGelu", [product(x, name), parameter(name + ".bias")])
        x = add_and_norm(x, linear(wide, layer + "output.dense"), layer + "output.LayerNorm")
    shape = ["batch", "tokens"]
    graph = helper.make_graph(
        nodes, "bert", [helper.make_tensor_value_info("ids", TensorProto.INT64, shape)],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, [*shape, model.config.hidden_size])],
        weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17),
                                                   helper.make_opsetid("com.microsoft", 1)])
    made.ir_version = 10
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(made.SerializeToString(), options,
                                        providers=["CPUExecutionProvider"])


class Decoder:
    """Transformers, as generate() runs it without its checks."""

    def __init__(self, model, prompt):
        self.model, self.prompt = model, torch.tensor([prompt])
        self.cache = None

    def prefill(self):
        start = time.perf_counter()
        out = self.model(self.prompt, use_cache=True, logits_to_keep=1)
        seconds = time.perf_counter() - start
        self.cache, self.first = out.past_key_values, out.logits[0, -1]
        return seconds

    def decode(self):
        if self.cache is None:
            self.prefill()
        added = self.cache.get_seq_length() - self.prompt.shape[1]
        if added > 0:
            self.cache.crop(-added)
        token = self.first.argmax().view(1, 1)
        start = time.perf_counter()
        for _ in range(TOKENS):
            out = self.model(token, past_key_values=self.cache, use_cache=True)
            token = out.logits[0, -1].argmax().view(1, 1)
        return (time.perf_counter() - start) / TOKENS


class Ours:
    def __init__(self, model, prompt):
        self.model, self.prompt = model, prompt

    def prefill(self):
        return self.model.generate(self.prompt, max_tokens=1).prompt_seconds

    def decode(self):
        done = self.model.generate(self.prompt, max_tokens=TOKENS + 1)
        return done.seconds / max(1, len(done.ids) - 1)


def in_turns(name, runs, samples, bars):
    """runs: {who: function -> seconds}, ours first; bars: {who: ratio}."""
    seconds = {who: [] for who in runs}
    for _ in range(samples):
        for who, run in runs.items():
            time.sleep(PAUSE)
            seconds[who].append(run())
    best = {who: min(times) for who, times in seconds.items()}
    ours = next(iter(runs))
    rows = []
    for who, bar in bars.items():
        ratio = best[who] / best[ours]
        print(f"{name:22}{ours} {1e3 * best[ours]:8.2f} ms  {who} {1e3 * best[who]:8.2f} ms  "
              f"{ratio:5.2f}x  (bar {bar}x{'' if ratio >= bar else ', missed'})", flush=True)
        rows.append({
            "name": name,
            "peer": who,
            "ratio": ratio,
            "bar": bar,
            "best": {w: best[w] for w in (ours, who)},
            "median": {w: statistics.median(seconds[w]) for w in (ours, who)},
        })
    return rows


def timed(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="without the long contexts")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/bench/models.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    rows = []
    with tempfile.TemporaryDirectory() as place, torch.inference_mode():
        folder = Path(place) / "llama"
        folder.mkdir()
        say("Making a model of SmolLM2's shape ...")
        peer = language_model(folder)
        ours = attn.load(folder, threads=options.threads)
        ids = np.random.default_rng(0).integers(0, VOCABULARY, 8001).tolist()
        expected = peer(torch.tensor([ids[:64]])).logits[0].numpy()
        difference = np.abs(ours.logits(ids[:64]) - expected).max() / np.abs(expected).max()
        say(f"Logits differ by at most {difference:.1e} of the largest")
        if not difference < TOLERANCE:
            sys.exit(1)
        cases = [("prefill", 512, 1.4), ("decode", 512, 1.6)]
        if not options.quick:
            cases += [("prefill", 4096, 1.6), ("decode", 8000, 2.5)]
        for what, length, bar in cases:
            contestants = {"attn": Ours(ours, ids[:length]),
                           "Transformers": Decoder(peer, ids[:length])}
            runs = {who: getattr(c, what) for who, c in contestants.items()}
            samples = options.samples if length < 2048 else min(3, options.samples)
            rows += in_turns(f"SmolLM2 {what} {length}", runs, samples, {"Transformers": bar})
        del peer, ours

        folder = Path(place) / "bert"
        folder.mkdir()
        peer = encoder(folder)
        ours = attn.load(folder, threads=options.threads)
        texts = ["a " * 126] * 32
        tokens = torch.tensor([[2] + [5] * 126 + [3]] * 32)
        runs = {"attn": lambda: timed(lambda: ours.embed(texts)),
                "Transformers": lambda: timed(lambda: peer(tokens))}
        bars = {"Transformers": 1.3}
        try:
            session = onnx_session(peer, options.threads)
        except ImportError as error:
            say(f"Without ONNX Runtime: {error}")
        else:
            given = {"ids": tokens.numpy()}
            expected = peer(tokens).last_hidden_state.numpy()
            difference = np.abs(session.run(None, given)[0] - expected).max()
            say(f"ONNX Runtime's hidden states differ by at most {difference:.1e}")
            if not difference < TOLERANCE:
                sys.exit(1)
            runs["ONNX Runtime"] = lambda: timed(lambda: session.run(None, given))
            bars["ONNX Runtime"] = 1.1
        rows += in_turns("MiniLM 32 x 128", runs, options.samples, bars)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
