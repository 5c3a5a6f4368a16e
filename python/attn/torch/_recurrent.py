"""recurrent(), linear_attention() and mamba2() on PyTorch tensors, with their gradients."""

import torch

from .. import _attn
from ._autograd import Once, refuse_transforms
from ._call import arithmetic, autocast, check, readable


def recurrent(
    q,
    k,
    v,
    log_decay=None,
    beta=None,
    bonus=None,
    *,
    a=None,
    b=None,
    rule="add",
    normalise=False,
    epsilon=0.0,
    state=None,
    return_state=False,
    offsets=None,
):
    """attn.recurrent() with autograd: RetNet, GLA, RWKV-5, 6 and 7, (gated) DeltaNet, ...

        out = attn.torch.recurrent(q, k, v, log_decay=torch.nn.functional.logsigmoid(gate) / 16)

    q, k [B, Hq, L, Dk], v [B, H, L, Dv] of one floating-point type; 16 bits are computed in float32.
    log_decay, beta, bonus, a, b and state, float32 (or float64 with float64), and everything else are
    as in attn.recurrent(). Differentiable once, with respect to every tensor, and through the state that
    return_state=True returns beside the output.
    """
    q, k, v = autocast(q, k, v)
    check("recurrent", q=q, k=k, v=v)
    tensors = {"q": q, "k": k, "v": v, "log_decay": log_decay, "beta": beta, "bonus": bonus}
    tensors |= {"a": a, "b": b, "state": state}
    options = {"rule": rule, "normalise": normalise, "epsilon": epsilon, "offsets": offsets}
    return run("recurrent", tensors, options, return_state, q.dtype)


def mamba2(
    x,
    dt,
    a,
    b,
    c,
    d=None,
    dt_bias=None,
    *,
    softplus=True,
    dt_limits=(0.0, float("inf")),
    state=None,
    return_state=False,
    offsets=None,
):
    """attn.mamba2() with autograd: the state space of Mamba-2.

    x [B, H, L, P], b, c [B, G, L, N] of one floating-point type; 16 bits are computed in float32.
    dt [B, H, L], a, d, dt_bias [H] and state, float32 (or float64 with float64), and everything else
    are as in attn.mamba2(). Differentiable as recurrent() is.
    """
    x, b, c = autocast(x, b, c)
    check("mamba2", x=x, b=b, c=c)
    tensors = {"x": x, "dt": dt, "a": a, "b": b, "c": c, "d": d, "dt_bias": dt_bias}
    options = {"softplus": softplus, "dt_limits": dt_limits, "offsets": offsets}
    return run("mamba2", {**tensors, "state": state}, options, return_state, x.dtype)


def linear_attention(
    q,
    k,
    v,
    *,
    map="elu",
    causal=True,
    normalise=True,
    features=None,
    epsilon=0.0,
    offsets=None,
):
    """attn.linear_attention() with autograd; without a state. features: an attn.RandomFeatures.

    q, k [B, Hq, L, Dk], v [B, H, L, Dv] of one floating-point type; 16 bits are computed in float32.
    """
    q, k, v = autocast(q, k, v)
    check("linear_attention", q=q, k=k, v=v)
    options = {"map": map, "causal": causal, "normalise": normalise, "features": features}
    options |= {"epsilon": epsilon, "offsets": offsets}
    return run("linear_attention", {"q": q, "k": k, "v": v}, options, False, q.dtype)


def run(name, tensors, options, return_state, dtype):
    """(out of this type, state of the arithmetic's) or out."""
    for what, x in tensors.items():
        if x is not None:
            check(name, **{what: x})
    if return_state:
        options = {**options, "return_state": True}
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors.values()):
        refuse_transforms(name)
        result = _Recurrence.apply(name, tuple(tensors), options, dtype, *tensors.values())
    else:
        result = _forward(name, tensors, options, dtype)
    if return_state:
        return result[0].to(dtype), result[1]
    return result.to(dtype)


def _readable(tensors, dtype):
    return {n: readable(x, arithmetic(dtype)) for n, x in tensors.items() if x is not None}


def _forward(name, tensors, options, dtype):
    given = _readable(tensors, dtype)
    return getattr(_attn, name)(**given, **options, threads=torch.get_num_threads())


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, name, names, options, dtype, *tensors):
        ctx.call = (name, names, options, dtype)
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        return _forward(name, dict(zip(names, tensors)), options, dtype)

    @staticmethod
    def backward(ctx, d_out, d_state=None):
        with torch.no_grad():
            given = _Recurrence.gradients(ctx, d_out, d_state)
        if torch.is_grad_enabled():  # create_graph=True
            given = [None if x is None else Once.apply(x, *ctx.saved_tensors) for x in given]
        return (None, None, None, None, *given)

    @staticmethod
    def gradients(ctx, d_out, d_state):
        name, names, options, dtype = ctx.call
        tensors = dict(zip(names, ctx.saved_tensors))
        needed = dict(zip(names, ctx.needs_input_grad[4:]))
        flows = {"d_state": d_state} if options.get("return_state") else {}
        if d_out is None and name == "linear_attention":
            d_out = torch.zeros_like(tensors["v"])
        flows["d_y" if name == "mamba2" else "d_out"] = d_out
        given = {**_readable(tensors, dtype), **_readable(flows, dtype)}
        given.setdefault("d_y" if name == "mamba2" else "d_out", None)
        gradients = getattr(_attn, name + "_backward")(
            **given,
            **{option: x for option, x in options.items() if option != "return_state"},
            wrt=[n for n, wanted in needed.items() if wanted],
            threads=torch.get_num_threads(),
        )
        return [
            getattr(gradients, n).to(x.dtype) if needed[n] else None for n, x in tensors.items()
        ]
