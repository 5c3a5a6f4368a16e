#!/usr/bin/env python3
"""Makes tests/data/scan.txt: Mamba-1 and RWKV-4 as Transformers' plain PyTorch forms compute them,
the recurrences with their gradients, and a layer of each.

Run it with an environment that has torch and transformers."""

from pathlib import Path

import torch
from transformers import MambaConfig, RwkvConfig
from transformers.models.mamba import modeling_mamba as mamba
from transformers.models.rwkv import modeling_rwkv as rwkv

OUT = Path(__file__).resolve().parent.parent / "tests/data/scan.txt"
BATCH, LENGTH, CHANNELS, STATES, WIDTH = 2, 11, 5, 3, 4
records = {}


def keep(name, x):
    records[name] = x.detach().double().flatten().tolist()


def made(*shape, low=-1.0, high=1.0):
    """Numbers that float32 holds: the plain forms cast some of their inputs to it."""
    x = (low + (high - low) * torch.rand(*shape)).float().double()
    return x.requires_grad_()


def scan():
    u, z = made(BATCH, LENGTH, CHANNELS), made(BATCH, LENGTH, CHANNELS, low=-3, high=3)
    delta, bias = made(BATCH, LENGTH, CHANNELS, low=-3, high=2), made(CHANNELS)
    a, d = made(CHANNELS, STATES, low=-2, high=-0.01), made(CHANNELS)
    b, c = made(BATCH, LENGTH, STATES), made(BATCH, LENGTH, STATES)
    out, state = mamba.mamba_selective_scan(
        u.transpose(1, 2), delta.transpose(1, 2), a, b.transpose(1, 2), c.transpose(1, 2), D=d,
        z=z.transpose(1, 2), delta_bias=bias, delta_softplus=True, return_last_state=True)
    out = out.transpose(1, 2)
    d_out, d_state = made(*out.shape), made(*state.shape)
    ((out * d_out).sum() + (state * d_state).sum()).backward()
    inputs = dict(u=u, delta=delta, a=a, b=b, c=c, d=d, z=z, bias=bias)
    for name, x in inputs.items():
        keep(f"scan.{name}", x.T if name == "a" else x)
        keep(f"scan.gradient.{name}", x.grad.T if name == "a" else x.grad)
    for name, x in dict(out=out, d_out=d_out, state=state.transpose(1, 2),
                        d_state=d_state.transpose(1, 2)).items():
        keep(f"scan.{name}", x)


def convolution():
    x, weight, bias = made(BATCH, LENGTH, CHANNELS), made(CHANNELS, WIDTH), made(CHANNELS)
    out = mamba.causal_conv1d_fn(x.transpose(1, 2), weight, bias, activation="silu").transpose(1, 2)
    d_out = made(*out.shape)
    (out * d_out).sum().backward()
    for name, t in dict(x=x, weight=weight, bias=bias).items():
        keep(f"convolution.{name}", t.T if name == "weight" else t)
        keep(f"convolution.gradient.{name}", t.grad.T if name == "weight" else t.grad)
    keep("convolution.out", out)
    keep("convolution.d_out", d_out)


def wkv4():
    k, v = made(BATCH, LENGTH, CHANNELS, low=-3, high=3), made(BATCH, LENGTH, CHANNELS)
    time_decay, bonus = made(CHANNELS, low=-4, high=1), made(CHANNELS, low=-2, high=2)
    out, state = rwkv.rwkv_linear_attention_cpu(time_decay, bonus, k, v, return_state=True)
    d_out = made(*out.shape)
    (out * d_out).sum().backward()
    decay = -torch.exp(time_decay)
    for name, x in dict(k=k, v=v, bonus=bonus).items():
        keep(f"wkv4.{name}", x)
        keep(f"wkv4.gradient.{name}", x.grad)
    keep("wkv4.decay", decay)
    keep("wkv4.gradient.decay", time_decay.grad / decay)  # d decay / d time_decay = decay
    for name, x in dict(out=out, d_out=d_out, state=torch.stack(state, 1)).items():
        keep(f"wkv4.{name}", x)


def layers():
    config = MambaConfig(hidden_size=6, state_size=STATES, expand=2, time_step_rank=2,
                         conv_kernel=WIDTH, num_hidden_layers=1, vocab_size=8)
    mixer = mamba.MambaMixer(config, 0)
    for p in mixer.parameters():
        torch.nn.init.uniform_(p, -0.7, 0.7)
    x = made(1, LENGTH, 6).float()
    with torch.no_grad():
        keep("mamba.out", mixer.eval()(x))
    keep("mamba.x", x)
    for name, p in mixer.named_parameters():
        keep(f"mamba.{name}", p)

    config = RwkvConfig(hidden_size=6, attention_hidden_size=8, num_hidden_layers=2, vocab_size=8)
    layer = rwkv.RwkvSelfAttention(config, 0)
    for p in layer.parameters():
        torch.nn.init.uniform_(p, -0.9, 0.9)
    with torch.no_grad():
        keep("rwkv.out", layer.eval()(x)[0])
    keep("rwkv.x", x)
    for name, p in layer.named_parameters():
        keep(f"rwkv.{name}", p)


def main():
    torch.manual_seed(7)
    for part in (scan, convolution, wkv4, layers):
        part()
    with OUT.open("w") as file:
        for name, values in records.items():
            print(name, len(values), *(f"{v:.10g}" for v in values), file=file)


if __name__ == "__main__":
    main()
