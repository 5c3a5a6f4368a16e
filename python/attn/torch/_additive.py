"""additive(): Bahdanau's attention, with gradients."""

import torch

from .. import _attn
from ._autograd import Once
from ._call import check, readable

_NAME = "additive"


def additive(query, key, value, v_a, *, mask=None, query_start=0):
    """softmax(v_a . tanh(query + key)) value, without an Lq x Lk x D tensor.

        out = attn.torch.additive(w(s), u(h), h, v_a, mask=attn.Mask.padding(lengths))

    query [B, H, Lq, D] and key [B, H, Lk, D] come projected, value [B, H, Lk, Dv], v_a [D] or [H, D].
    Differentiable once, with respect to all four. float32 and float64; other types are computed in
    float32.
    """
    inputs = {"query": query, "key": key, "value": value, "v_a": v_a}
    check(_NAME, **inputs)
    for name, x in inputs.items():
        if name != "v_a" and x.dim() != 4:
            raise ValueError(f"[{_NAME}] {name} has {x.dim()} dimensions, must have 4")
    options = {"mask": mask, "query_start": query_start, "threads": torch.get_num_threads()}
    return _Additive.apply(options, *inputs.values())


def _arrays(*tensors):
    dtype = torch.float64 if tensors[0].dtype == torch.float64 else torch.float32
    return [readable(x, dtype) for x in tensors]


class _Additive(torch.autograd.Function):
    @staticmethod
    def forward(ctx, options, *inputs):
        out, lse = _attn.additive(*_arrays(*inputs), return_lse=True, **options)
        ctx.options = options
        ctx.save_for_backward(*inputs, out, lse)
        return out.to(inputs[0].dtype)

    @staticmethod
    def backward(ctx, d_out):
        inputs = ctx.saved_tensors[:4]
        with torch.no_grad():
            g = _attn.additive_backward(*_arrays(*ctx.saved_tensors, d_out), **ctx.options)
            given = [x.to(of.dtype) for x, of in zip((g.q, g.k, g.v, g.v_a), inputs)]
        if torch.is_grad_enabled():  # create_graph=True
            given = [Once.apply(x, *ctx.saved_tensors) for x in given]
        return (None, *given)
