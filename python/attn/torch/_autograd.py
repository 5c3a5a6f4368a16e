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
    if _differentiable(inputs):
        return _apply(call, module, False, *inputs)[0]
    return _forward(call, module, inputs, _stored(q.dtype))[0].to(q.dtype)


def attend_with_rows(call, q, k, v, bias, sinks, entropy):
    """(out, log-sum-exp, entropy or None), [B, Hq, Lq] of the arithmetic's type."""
    inputs = (q, k, v, bias, sinks)
    if _differentiable(inputs):
        return _apply(call, None, entropy, *inputs)
    out, *rows = _forward(call, None, inputs, _stored(q.dtype), lse=True, entropy=entropy)
    return out.to(q.dtype), *rows


def _apply(*arguments):
    refuse_transforms("attention")
    return _Attention.apply(*arguments)


def refuse_transforms(function):
    """What apply() refuses too; its own message asks the user to override a method of ours."""
    if torch._C._are_functorch_transforms_active():
        raise NotImplementedError(
            f"[{function}] torch.func's transforms (grad, vjp, jacrev, ...) cannot differentiate "
            "attn: use backward() or torch.autograd.grad"
        )


def _differentiable(inputs):
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)


def _stored(dtype):
    """The type in which tensors are read: their own, where the engine knows it."""
    known = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    return dtype if dtype in known else torch.float32


def _forward(call, module, inputs, dtype, **rows):
    """(out of this type, log-sum-exp or None, entropy or None); once for each who watches."""
    rows = {name: asked for name, asked in rows.items() if asked}
    watchers = _watch.active()
    if not watchers:
        out, answers = _run(call, inputs, dtype, rows)
    for watcher in watchers:
        out, answers = _run(call, inputs, dtype, {**watcher.questions, **rows})
        watcher.see(module, call, inputs, answers)
    return out, *(getattr(answers, name) if name in rows else None for name in ("lse", "entropy"))


def _run(call, inputs, dtype, questions):
    """(out, answers); `out` lies as the next projection reads it."""
    q, k, v, bias, sinks = inputs
    batch, heads, length, _ = q.shape
    out = torch.empty(batch, length, heads, v.shape[-1], dtype=dtype).transpose(1, 2)
    _, answers = _attn.observe(
        *(readable(x, _stored(q.dtype)) for x in (q, k, v)),
        **call.options(bias, sinks, arithmetic(dtype)),
        out=out,
        **questions,
    )
    return out, answers


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, call, module, entropy, *inputs):
        # The output is kept as it was computed: its rounding to 16 bits would enter every gradient.
        out, *rows = _forward(
            call, module, inputs, arithmetic(inputs[0].dtype), lse=True, entropy=entropy
        )
        ctx.call = call
        ctx.save_for_backward(*inputs, out, *rows)
        ctx.set_materialize_grads(False)
        return out.to(inputs[0].dtype), *rows

    @staticmethod
    def backward(ctx, d_out, d_lse, d_entropy):
        with torch.no_grad():
            given = _Attention.gradients(ctx, d_out, d_lse, d_entropy)
        if torch.is_grad_enabled():  # create_graph=True
            given = [None if x is None else Once.apply(x, *ctx.saved_tensors) for x in given]
        return (None, None, None, *given)

    @staticmethod
    def gradients(ctx, d_out, d_lse, d_entropy):
        *inputs, out, lse, entropy = ctx.saved_tensors
        q, k, v, bias, sinks = inputs
        dtype = out.dtype
        needed = dict(zip(("q", "k", "v", "bias", "sinks"), ctx.needs_input_grad[3:]))
        if d_out is None:
            d_out = torch.zeros_like(out)
        rows = {"d_lse": d_lse, "d_entropy": d_entropy}
        if d_entropy is not None:
            rows["entropy"] = entropy
        gradients = _attn.backward(
            *(readable(x, dtype) for x in (q, k, v, out, lse, d_out)),
            **{name: x.detach().contiguous() for name, x in rows.items() if x is not None},
            wrt=[name for name, wanted in needed.items() if wanted],
            **ctx.call.options(bias, sinks, dtype),
        )
        return [
            getattr(gradients, name).to(x.dtype).reshape(x.shape) if wanted else None
            for (name, wanted), x in zip(needed.items(), inputs)
        ]


class Once(torch.autograd.Function):
    """A gradient that depends on what it was computed from, but says so instead of how."""

    @staticmethod
    def forward(ctx, gradient, *inputs):
        return gradient.clone()

    @staticmethod
    def backward(ctx, d_gradient):
        raise RuntimeError(
            "[attn.torch] second derivatives of attention are not computed: use PyTorch's own for a "
            "loss of gradients"
        )
