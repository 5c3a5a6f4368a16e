"""additive(), luong() and luong_local(): the attention before dot products, with gradients."""

import torch

from .. import _attn
from ._autograd import Once, refuse_transforms
from ._call import arithmetic, check, readable


def additive(query, key, value, v_a, *, mask=None, query_start=0):
    """Bahdanau's softmax(v_a . tanh(query + key)) value, without an Lq x Lk x D tensor.

        out = attn.torch.additive(w(s), u(h), h, v_a, mask=attn.Mask.padding(lengths))

    query [B, H, Lq, D] and key [B, H, Lk, D] come projected, value [B, H, Lk, Dv], v_a [D] or [H, D].
    Differentiable once, with respect to all four. float32 and float64; other types are computed in
    float32.
    """
    tensors = {"query": query, "key": key, "value": value, "v_a": v_a}
    return _run("additive", tensors, {"mask": mask, "query_start": query_start})


def luong(query, key, value, w=None, v_a=None, *, mask=None, query_start=0):
    """attn.luong() with autograd: dot without weights, general with w, concat with w and v_a.

        out = attn.torch.luong(h, s, s, w, mask=attn.Mask.padding(lengths))

    query [B, H, Lq, Dq], key [B, H, Lk, Dk], value [B, H, Lk, Dv]; w [Dq, Dk], or for concat
    [D, Dq + Dk] with v_a [D], either with a dimension of heads in front or none. No scale.
    Differentiable as additive() is, with respect to everything given.
    """
    tensors = {"query": query, "key": key, "value": value, "w": w, "v_a": v_a}
    return _run("luong", tensors, {"mask": mask, "query_start": query_start})


def luong_local(query, key, value, w_p, v_p, *, window=10.0, w=None, lengths=None):
    """attn.luong_local() with autograd: a window around a place that the query predicts.

    query [B, H, Lq, Dq], key [B, H, Lk, Dk], value [B, H, Lk, Dv]; w_p [P, Dq], v_p [P] and, for the
    general score, w [Dq, Dk]. lengths: real keys of each batch entry. Differentiable as additive() is;
    where a window's bounds pass a key the output jumps, and the gradient is that between jumps.
    """
    tensors = {"query": query, "key": key, "value": value, "w_p": w_p, "v_p": v_p, "w": w}
    return _run("luong_local", tensors, {"window": window, "lengths": lengths})


def _run(name, tensors, options):
    tensors = {what: x for what, x in tensors.items() if x is not None}
    check(name, **tensors)
    for what in ("query", "key", "value"):
        if tensors[what].dim() != 4:
            raise ValueError(f"[{name}] {what} has {tensors[what].dim()} dimensions, must have 4")
    refuse_transforms(name)
    options = {**options, "threads": torch.get_num_threads()}
    short = {"query": "q", "key": "k", "value": "v"}
    names = tuple(short.get(what, what) for what in tensors)
    return _Scored.apply(name, names, options, *tensors.values())


class _Scored(torch.autograd.Function):
    @staticmethod
    def forward(ctx, name, names, options, *inputs):
        function, given = getattr(_attn, name), _arrays(names, inputs)
        if name == "luong_local":  # its gradients need nothing more
            out, results = function(**given, **options), ()
        else:
            results = function(**given, **options, return_lse=True)
            out = results[0]
        ctx.call = (name, names, options)
        ctx.save_for_backward(*inputs, *results)
        return out.to(inputs[0].dtype)

    @staticmethod
    def backward(ctx, d_out):
        with torch.no_grad():
            given = _Scored.gradients(ctx, d_out)
        if torch.is_grad_enabled():  # create_graph=True
            given = [Once.apply(x, *ctx.saved_tensors) for x in given]
        return (None, None, None, *given)

    @staticmethod
    def gradients(ctx, d_out):
        name, names, options = ctx.call
        inputs, results = ctx.saved_tensors[: len(names)], ctx.saved_tensors[len(names) :]
        named = (*names, "d_out", *("out", "lse")[: len(results)])
        given = _arrays(named, (*inputs, d_out, *results))
        gradients = getattr(_attn, name + "_backward")(**given, **options)
        return [getattr(gradients, n).to(x.dtype) for n, x in zip(names, inputs)]


def _arrays(names, tensors):
    dtype = arithmetic(tensors[0].dtype)
    return {name: readable(x, dtype) for name, x in zip(names, tensors)}
