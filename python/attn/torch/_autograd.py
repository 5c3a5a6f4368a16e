"""One call of the engine on PyTorch tensors [batch, heads, length, width], with its gradients."""

import torch

from .. import _attn
from . import _watch
from ._call import arithmetic, readable


def attend(call, q, k, v, bias=None, sinks=None, module=None):
    """Attention of [B, Hq, Lq, D] over [B, Hkv, Lk, D] and [B, Hkv, Lk, Dv].

    bias broadcasts to [B, Hq, Lq, Lk], sinks is [Hq]. module: who calls, for those who watch.
    """
    inputs = (q, k, v, bias, sinks)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs):
        return _Attention.apply(call, module, *inputs)
    return _forward(call, module, inputs, _stored(q.dtype))[0].to(q.dtype)


def _stored(dtype):
    """The type in which tensors are read: their own, where the engine knows it."""
    known = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    return dtype if dtype in known else torch.float32


def _forward(call, module, inputs, dtype, lse=False):
    """(out of this type, log-sum-exp or None); once for each who watches."""
    watchers = _watch.active()
    if not watchers:
        return _run(call, inputs, dtype, {"lse": lse})[:2]
    for watcher in watchers:
        asked = {**watcher.questions, "lse": lse or watcher.questions.get("lse", False)}
        out, lse_of_rows, answers = _run(call, inputs, dtype, asked)
        watcher.see(module, call, inputs, answers)
    return out, lse_of_rows


def _run(call, inputs, dtype, questions):
    """(out, log-sum-exp or None, answers); `out` lies as the next projection reads it."""
    q, k, v, bias, sinks = inputs
    batch, heads, length, _ = q.shape
    out = torch.empty(batch, length, heads, v.shape[-1], dtype=dtype).transpose(1, 2)
    _, answers = _attn.observe(
        *(readable(x, _stored(q.dtype)) for x in (q, k, v)),
        **call.options(bias, sinks, arithmetic(dtype)),
        out=out,
        **questions,
    )
    return out, answers.lse, answers


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, call, module, *inputs):
        # The output is kept as it was computed: its rounding to 16 bits would enter every gradient.
        out, lse = _forward(call, module, inputs, arithmetic(inputs[0].dtype), lse=True)
        ctx.call = call
        ctx.save_for_backward(*inputs, out, lse)
        return out.to(inputs[0].dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_out):
        *inputs, out, lse = ctx.saved_tensors
        q, k, v, bias, sinks = inputs
        dtype = out.dtype
        needed = dict(zip(("q", "k", "v", "bias", "sinks"), ctx.needs_input_grad[2:]))
        gradients = _attn.backward(
            *(readable(x, dtype) for x in (q, k, v, out, lse, d_out)),
            wrt=[name for name, wanted in needed.items() if wanted],
            **ctx.call.options(bias, sinks, dtype),
        )
        given = (
            getattr(gradients, name).to(x.dtype).reshape(x.shape) if wanted else None
            for (name, wanted), x in zip(needed.items(), inputs)
        )
        return (None, None, *given)
