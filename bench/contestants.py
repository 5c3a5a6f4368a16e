"""How each library is asked for the same attention.

A contestant is made once a case and number of threads. What it needs beforehand (plans, sessions,
compiling, dense masks, the layout that it prefers) is made then and is not timed.
"""

import ctypes
import importlib
import logging
import os
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Callable

import attn
import numpy as np


@dataclass(frozen=True)
class Case:
    name: str
    shape: tuple  # batch, query heads, key heads, query length, key length, width
    kind: str = "forward"  # forward, backward, decode: queries are the last tokens
    causal: bool = False
    window: int = 0  # causal, and this many keys at most; 0: all
    alibi: bool = False
    bars: dict = field(default_factory=dict, hash=False)  # contestant or "fastest": factor

    @property
    def grouped(self):
        return self.shape[1] != self.shape[2]

    @property
    def query_start(self):
        return self.shape[4] - self.shape[3] if self.kind == "decode" else 0

    @property
    def what(self):
        mask = f"window:{self.window - 1},0" if self.window else "causal" if self.causal else "full"
        return mask + (" alibi" if self.alibi else "")

    def distances(self):
        """Query minus key position, [Lq, Lk]."""
        return (self.query_start + np.arange(self.shape[3]))[:, None] - np.arange(self.shape[4])

    def visible(self):
        """Who sees whom, [Lq, Lk]; None: everybody."""
        if not self.causal:
            return None
        d = self.distances()
        return (d >= 0) & (d < self.window) if self.window else d >= 0

    def bias(self):
        """ALiBi and the mask as numbers to add, [1, Hq, Lq, Lk]."""
        slopes = np.asarray(attn.alibi_slopes(self.shape[1]), dtype=np.float32)
        added = -slopes[:, None, None] * np.abs(self.distances()).astype(np.float32)
        return np.where(self.visible(), added, np.float32(-np.inf))[None]


class Data:
    """Random tensors of a case. When decoding, copies of the cache take turns until twice the last
    cache has been read: a model has other layers in between."""

    def __init__(self, case):
        b, hq, hkv, lq, lk, d = case.shape
        random = np.random.default_rng(1)
        normal = lambda *shape: random.standard_normal(shape, dtype=np.float32)
        self.q = normal(b, hq, lq, d)
        self.d_out = normal(b, hq, lq, d) if case.kind == "backward" else None
        self.caches = [(normal(b, hkv, lk, d), normal(b, hkv, lk, d))]
        size = 2 * self.caches[0][0].nbytes
        if case.kind == "decode":
            for _ in range(size, min(2 * last_cache(), 2_000_000_000 - size), size):
                self.caches.append(tuple(x.copy() for x in self.caches[0]))


def last_cache():
    sizes = [p.read_text() for p in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(s.strip().rstrip("K")) * 1024 for s in sizes), default=32 << 20)


@dataclass(frozen=True)
class Contestant:
    name: str
    column: str  # of the table; the best of those that share one is shown
    library: str  # what has to be importable
    # (case, data, threads) -> a function for each cache, that returns what was computed; None when
    # the library has no such thing.
    make: Callable
    read: Callable = lambda results, case: results  # as [B, H, L, D]


@cache
def why_missing(library):
    """Why a library cannot be used; empty when it can."""
    try:
        if library == "openblas":
            openblas()
        else:
            for module in library.split("+"):
                importlib.import_module(module)
    except Exception as error:
        return str(error).splitlines()[0]
    return ""


# --- attn


def ours(case, data, threads):
    mask = attn.Mask.window(case.window - 1, 0) if case.window else attn.Mask.full()
    if case.causal:
        mask = mask & attn.Mask.causal()
    score = attn.Score(alibi=case.alibi)
    q = data.q
    if case.kind == "backward":
        ((k, v),) = data.caches
        how = {"mask": mask, "score": score, "threads": threads}
        out, lse = attn.attention(q, k, v, return_lse=True, **how)

        def gradients():
            g = attn.backward(q, k, v, out, lse, data.d_out, **how)
            return g.q, g.k, g.v

        return [gradients]
    plan = attn.plan(
        case.shape, mask=mask, score=score, query_start=case.query_start, threads=threads
    )
    return [lambda k=k, v=v: (plan.run(q, k, v),) for k, v in data.caches]


# --- PyTorch


def torch_with(threads):
    import torch

    logging.getLogger("torch").setLevel(logging.ERROR)  # it misses triton, which CPUs do not need
    torch.set_num_threads(threads)
    return torch, torch.nn.functional.scaled_dot_product_attention


def tensors(torch, data):
    to = torch.from_numpy
    return to(data.q), [(to(k), to(v)) for k, v in data.caches]


def sdpa(case, data, threads):
    torch, attention = torch_with(threads)
    how = {"enable_gqa": case.grouped}
    if case.alibi:
        how["attn_mask"] = torch.from_numpy(case.bias())
    elif case.window or (case.causal and case.query_start):  # is_causal begins at key 0
        how["attn_mask"] = torch.from_numpy(case.visible())
    elif case.causal:
        how["is_causal"] = True
    q, caches = tensors(torch, data)
    if case.kind == "backward":
        inputs = [x.requires_grad_() for x in (q, *caches[0])]
        out, d_out = attention(*inputs, **how), torch.from_numpy(data.d_out)
        return [lambda: torch.autograd.grad(out, inputs, d_out, retain_graph=True)]
    return [lambda k=k, v=v: (attention(q, k, v, **how),) for k, v in caches]


def sdpa_view(case, data, threads):
    """The heads that share a key head as more query rows: no head is repeated."""
    if case.kind != "decode" or not case.grouped:
        return None
    torch, attention = torch_with(threads)
    b, hq, hkv, lq, lk, d = case.shape
    q, caches = tensors(torch, data)
    q = q.view(b, hkv, hq // hkv * lq, d)
    mask = None
    if case.causal:
        mask = torch.from_numpy(case.visible()).repeat(hq // hkv, 1)
    return [
        lambda k=k, v=v: (attention(q, k, v, attn_mask=mask).view(b, hq, lq, d),) for k, v in caches
    ]


def flex(case, data, threads):
    if case.kind != "forward" or not case.causal:
        return None
    torch, _ = torch_with(threads)
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    window = case.window or case.shape[4]
    slopes = torch.tensor(list(attn.alibi_slopes(case.shape[1])))
    visible = lambda b, h, i, j: (i >= j) & (i - j < window)
    alibi = lambda s, b, h, i, j: s - slopes[h] * (i - j)
    blocks = create_block_mask(
        visible if case.window else lambda b, h, i, j: i >= j,
        None, None, case.shape[3], case.shape[4], device="cpu",
    )
    torch._dynamo.reset()
    compiled = torch.compile(flex_attention, dynamic=False)
    q, ((k, v),) = tensors(torch, data)
    how = {"block_mask": blocks, "enable_gqa": case.grouped}
    if case.alibi:
        how["score_mod"] = alibi
    return [lambda: (compiled(q, k, v, **how),)]


# --- ONNX Runtime: contributed operators, on [batch, length, heads x width]


def as_rows(x):
    b, h, l, d = x.shape
    return np.ascontiguousarray(x.transpose(0, 2, 1, 3)).reshape(b, l, h * d)


def from_rows(results, case):
    b, hq, _, lq, _, d = case.shape
    return [x.reshape(b, lq, hq, d).transpose(0, 2, 1, 3) for x in results[:1]]


def session(operator, inputs, outputs, threads, **attributes):
    """A model of one operator; names with a shape, or None for one that is not given."""
    import onnxruntime
    from onnx import TensorProto, helper

    def declare(name, shape):
        whole = name in ("seqlens_k", "total_sequence_length")
        return helper.make_tensor_value_info(
            name, TensorProto.INT32 if whole else TensorProto.FLOAT, shape
        )

    node = helper.make_node(
        operator,
        [name if shape is not None else "" for name, shape in inputs.items()],
        list(outputs), domain="com.microsoft", **attributes,
    )
    graph = helper.make_graph(
        [node], "attention",
        [declare(name, shape) for name, shape in inputs.items() if shape is not None],
        [declare(name, shape) for name, shape in outputs.items()],
    )
    model = helper.make_model(
        graph, ir_version=8,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)],
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def ort_mha(case, data, threads):
    if case.kind != "forward" or case.grouped:
        return None
    rows = [as_rows(x) for x in (data.q, *data.caches[0])]
    feeds = dict(zip(("query", "key", "value"), rows))
    inputs = {name: x.shape for name, x in feeds.items()}
    dense = case.alibi or case.window
    if dense:
        bias = case.bias() if case.alibi else None
        if bias is None:
            bias = np.where(case.visible(), np.float32(0), np.float32(-np.inf))[None, None]
        feeds["attention_bias"] = bias
        inputs |= {"bias": None, "key_padding_mask": None, "attention_bias": bias.shape}
    run = session(
        "MultiHeadAttention", inputs, {"output": rows[0].shape}, threads,
        num_heads=case.shape[1], unidirectional=int(case.causal and not dense),
    ).run
    return [lambda: run(None, feeds)]


def ort_gqa(case, data, threads):
    if case.kind == "backward" or not case.causal and case.shape[3] > 1 or case.alibi:
        return None
    import onnxruntime

    b, hq, hkv, lq, lk, d = case.shape
    value = lambda x: onnxruntime.OrtValue.ortvalue_from_numpy(x)
    past = (b, hkv, lk if case.kind == "decode" else 0, d)
    inputs = {
        "query": (b, lq, hq * d), "key": (b, lq, hkv * d), "value": (b, lq, hkv * d),
        "past_key": past, "past_value": past, "seqlens_k": (b,), "total_sequence_length": (),
    }
    present = (b, hkv, lk, d)
    outputs = {"output": (b, lq, hq * d), "present_key": present, "present_value": present}
    made = session(
        "GroupQueryAttention", inputs, outputs, threads,
        num_heads=hq, kv_num_heads=hkv, local_window_size=case.window or -1,
    )
    runs = []
    for k, v in data.caches:
        binding = made.io_binding()
        # The last tokens are new; they go to where they are already, in a cache that is both past
        # and present, as ONNX Runtime's generation does it.
        new = {"query": data.q, "key": k[:, :, lk - lq :], "value": v[:, :, lk - lq :]}
        for name, x in new.items():
            binding.bind_ortvalue_input(name, value(as_rows(x)))
        for name, x in (("key", k), ("value", v)):
            held = value(x if case.kind == "decode" else np.empty(past, np.float32))
            binding.bind_ortvalue_input("past_" + name, held)
            if case.kind == "decode":
                binding.bind_ortvalue_output("present_" + name, held)
            else:
                binding.bind_output("present_" + name)
        binding.bind_ortvalue_input("seqlens_k", value(np.full(b, lk - 1, np.int32)))
        binding.bind_ortvalue_input("total_sequence_length", value(np.array(lk, np.int32)))
        out = value(np.empty((b, lq, hq * d), np.float32))
        binding.bind_ortvalue_output("output", out)

        def run(binding=binding, out=out):
            made.run_with_iobinding(binding)
            return [out.numpy()]

        runs.append(run)
    return runs


# --- plain attention on OpenBLAS, bench/openblas.cpp


@cache
def openblas():
    isa = attn.plan((1, 1, 1, 1, 1, 8)).summary.isa
    core = {"avx512": "SKYLAKEX", "avx2": "HASWELL"}.get(isa)
    if core is None:
        raise RuntimeError(f"no core type for {isa}")
    library = ctypes.CDLL(os.environ["ATTN_OPENBLAS"])
    if not library.attn_openblas_load(core.encode()):
        raise RuntimeError("libopenblas.so.0 is missing")
    return library.attn_openblas_attention


def blas(case, data, threads):
    if case.kind != "forward" or case.window or case.alibi:
        return None
    ((k, v),) = data.caches
    out = np.empty_like(data.q)
    address = lambda x: ctypes.c_void_p(x.ctypes.data)
    shape = (ctypes.c_int64 * 6)(*case.shape)
    arguments = [address(x) for x in (data.q, k, v, out)]

    def run():
        openblas()(*arguments, shape, int(case.causal), threads)
        return (out,)

    return [run]


ATTN = "attn"
ENABLE_GQA = "PyTorch SDPA"
VIEW = "PyTorch SDPA, group as query rows"
CONTESTANTS = [
    Contestant(ATTN, "attn", "attn", ours),
    Contestant(ENABLE_GQA, "SDPA", "torch", sdpa),
    Contestant(VIEW, "view", "torch", sdpa_view),
    Contestant("PyTorch FlexAttention", "Flex", "torch", flex),
    Contestant("ONNX Runtime MultiHeadAttention", "ORT", "onnxruntime+onnx", ort_mha, from_rows),
    Contestant("ONNX Runtime GroupQueryAttention", "ORT", "onnxruntime+onnx", ort_gqa, from_rows),
    Contestant("OpenBLAS, plain attention", "BLAS", "openblas", blas),
]
