"""causal_convolution(), selective_scan() and wkv4() on PyTorch tensors, with their gradients."""

from ._call import autocast, check
from ._recurrent import run


def causal_convolution(
    x, weight, bias=None, *, silu=False, state=None, return_state=False, offsets=None
):
    """attn.causal_convolution() with autograd: Mamba's short convolution.

        x = attn.torch.causal_convolution(x, conv1d.weight[:, 0].T, conv1d.bias, silu=True)

    x [B, L, channels]; 16 bits are computed in float32. weight [width, channels], bias [channels], the
    state, float32 (or float64 with float64), and everything else are as in attn.causal_convolution().
    Differentiable once, with respect to every tensor, and through the state that return_state=True
    returns beside the output.
    """
    (x,) = autocast(x)
    check("causal_convolution", x=x)
    tensors = {"x": x, "weight": weight, "bias": bias, "state": state}
    options = {"silu": silu, "offsets": offsets}
    return run("causal_convolution", tensors, options, return_state, x.dtype)


def selective_scan(
    u,
    delta,
    a,
    b,
    c,
    d=None,
    z=None,
    delta_bias=None,
    *,
    softplus=False,
    state=None,
    return_state=False,
    offsets=None,
):
    """attn.selective_scan() with autograd: Mamba's state space.

        y = attn.torch.selective_scan(u, dt, -A_log.exp().T, b, c, d, z, dt_bias, softplus=True)

    u, z [B, L, channels], b, c [B, L, states] or [B, L, groups, states] of one floating-point type; 16
    bits are computed in float32. delta [B, L, channels], a [states, channels], d, delta_bias [channels]
    and the state, float32 (or float64 with float64), and everything else are as in
    attn.selective_scan(). Differentiable as causal_convolution() is.
    """
    u, b, c, z = autocast(u, b, c, z)
    check("selective_scan", u=u, b=b, c=c, **({} if z is None else {"z": z}))
    tensors = {"u": u, "delta": delta, "a": a, "b": b, "c": c, "d": d, "z": z}
    tensors |= {"delta_bias": delta_bias, "state": state}
    options = {"softplus": softplus, "offsets": offsets}
    return run("selective_scan", tensors, options, return_state, u.dtype)


def wkv4(k, v, decay, bonus, *, state=None, return_state=False, offsets=None):
    """attn.wkv4() with autograd: RWKV-4's weighted mean.

        out = attn.torch.wkv4(k, v, -time_decay.exp(), time_first)

    k, v [B, L, channels] of one floating-point type; 16 bits are computed in float32. decay, bonus
    [channels] and the state, float32 (or float64 with float64), and everything else are as in
    attn.wkv4(). Differentiable as causal_convolution() is.
    """
    k, v = autocast(k, v)
    check("wkv4", k=k, v=v)
    tensors = {"k": k, "v": v, "decay": decay, "bonus": bonus, "state": state}
    return run("wkv4", tensors, {"offsets": offsets}, return_state, k.dtype)
