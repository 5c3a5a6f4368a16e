"""Exact attention with any mask and score on the CPU, and a look into what every head attends to.

    out = attn.attention(q, k, v, mask=attn.Mask.causal() & attn.Mask.window(512, 0))

    out, state = attn.recurrent(q, k, v, log_decay=w, return_state=True)  # RetNet, GLA, RWKV, ...

Arrays are NumPy, PyTorch or anything with DLPack, read without copies; results come back as the
kind that q is. Wrong arguments raise ValueError, files and models that fail raise attn.Error.

In a process forked after several threads ran here (multiprocessing's "fork"), calls run on one thread,
as OpenMP's do not follow a fork; "spawn" and "forkserver" keep them all.

attn.torch (needs PyTorch) has scaled_dot_product_attention and the recurrences with autograd, and
serves Hugging Face Transformers.
"""

import importlib

from . import reference
from ._attn import (
    AdditiveGradients,
    AdditiveKeys,
    Answers,
    Dropout,
    Error,
    Generation,
    GenerationAttention,
    Gradients,
    HeadStatistics,
    LanguageModel,
    LinearAttentionGradients,
    Mamba2Gradients,
    Mask,
    Model,
    Page,
    Plan,
    PlanSummary,
    Questions,
    RandomFeatures,
    RecurrentGradients,
    RopeScaling,
    Score,
    T5Bias,
    TextScore,
    Translation,
    TranslationAnswers,
    TranslationModel,
    additive,
    additive_backward,
    alibi_slopes,
    attention,
    backward,
    causal_convolution,
    isas,
    linear_attention,
    linear_attention_backward,
    load,
    log_decay,
    log_decay_backward,
    look,
    luong,
    luong_backward,
    luong_local,
    luong_local_backward,
    mamba2,
    mamba2_backward,
    merge,
    merge_delta_states,
    merge_linear_states,
    merge_states,
    observe,
    plan,
    recurrent,
    recurrent_backward,
    retnet_log_decay,
    rope,
    selective_scan,
    sinusoidal,
    t5_bucket,
    version,
    view,
    wkv4,
)
from .longformer import longformer_attention

__version__ = version()

__all__ = [
    "AdditiveGradients",
    "AdditiveKeys",
    "Answers",
    "Dropout",
    "Error",
    "Generation",
    "GenerationAttention",
    "Gradients",
    "HeadStatistics",
    "LanguageModel",
    "LinearAttentionGradients",
    "Mamba2Gradients",
    "Mask",
    "Model",
    "Page",
    "Plan",
    "PlanSummary",
    "Questions",
    "RandomFeatures",
    "RecurrentGradients",
    "RopeScaling",
    "Score",
    "T5Bias",
    "TextScore",
    "Translation",
    "TranslationAnswers",
    "TranslationModel",
    "__version__",
    "additive",
    "additive_backward",
    "alibi_slopes",
    "attention",
    "backward",
    "causal_convolution",
    "isas",
    "linear_attention",
    "linear_attention_backward",
    "load",
    "log_decay",
    "log_decay_backward",
    "longformer_attention",
    "look",
    "luong",
    "luong_backward",
    "luong_local",
    "luong_local_backward",
    "mamba2",
    "mamba2_backward",
    "merge",
    "merge_delta_states",
    "merge_linear_states",
    "merge_states",
    "observe",
    "plan",
    "recurrent",
    "recurrent_backward",
    "reference",
    "retnet_log_decay",
    "rope",
    "selective_scan",
    "sinusoidal",
    "t5_bucket",
    "version",
    "view",
    "wkv4",
]


def __getattr__(name):
    # PyTorch is optional and slow to import: only who uses attn.torch needs it.
    if name == "torch":
        return importlib.import_module(".torch", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
