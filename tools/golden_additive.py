"""Writes tests/data/golden_additive.txt: additive and multiplicative attention and their gradients.

    pip install torch && python tools/golden_additive.py

One record a line: name, number of values, values. All in float64 by PyTorch, from the papers' equations
and through Lq x Lk x D tensors; gradients by autograd. The inputs are sines that the test makes again.
Made with torch 2.13 (CPU).
"""

import pathlib

import torch

OUT = pathlib.Path(__file__).parent.parent / "tests" / "data" / "golden_additive.txt"
INF = float("inf")
B, H, LQ, LK, D, DV, P = 2, 2, 3, 7, 4, 3, 5  # P: width of the predicted place's layer
WINDOW = 2.0
records = []


def wave(phase, *shape):
    """sin(phase + 0.37 i) over the elements i in order."""
    n = torch.Size(shape).numel()
    return torch.sin(phase + 0.37 * torch.arange(n, dtype=torch.float64)).reshape(shape)


def inputs():
    x = {
        "q": wave(0.1, B, H, LQ, D),
        "k": wave(0.2, B, H, LK, D),
        "v": wave(0.3, B, H, LK, DV),
        "v_a": wave(0.4, 1, H, 1, D),
        "w": wave(0.5, 1, 1, D, D),
        "w_concat": wave(0.6, 1, H, D, 2 * D),
        "w_p": wave(0.8, 1, 1, P, D),
        "v_p": wave(0.9, 1, H, 1, P),
    }
    return {name: t.requires_grad_() for name, t in x.items()}


# Query i stands at 3 + i; the second text has five keys.
padding = torch.arange(LK)[None, :] < torch.tensor([LK, 5])[:, None]
causal = torch.arange(LK)[None, :] <= 3 + torch.arange(LQ)[:, None]
visible = padding[:, None, None, :] & causal


def bahdanau(x):
    return (x["v_a"].unsqueeze(3) * torch.tanh(x["q"].unsqueeze(3) + x["k"].unsqueeze(2))).sum(-1)


def dot(x):
    return x["q"] @ x["k"].transpose(-1, -2)


def general(x):
    return x["q"] @ x["w"] @ x["k"].transpose(-1, -2)


def concat(x):
    both = torch.cat(
        [x["q"].unsqueeze(3).expand(B, H, LQ, LK, D), x["k"].unsqueeze(2).expand(B, H, LQ, LK, D)], -1
    )
    hidden = torch.tanh(torch.einsum("bhqkc,hdc->bhqkd", both, x["w_concat"][0]))
    return (x["v_a"].unsqueeze(3) * hidden).sum(-1)


def record(name, tensor):
    values = tensor.detach().flatten().tolist()
    records.append(f"{name} {len(values)} " + " ".join(repr(v) for v in values))


def gradients(name, x, loss, wrt):
    for n, g in zip(wrt, torch.autograd.grad(loss, [x[n] for n in wrt])):
        record(f"{name}.d_{n}", g)


def whole(name, score, wrt):
    x = inputs()
    s = score(x).masked_fill(~visible, -INF)
    p, lse = torch.softmax(s, -1), torch.logsumexp(s, -1, keepdim=True)
    out = p @ x["v"]
    record(f"{name}.out", out)
    record(f"{name}.lse", lse)
    record(f"{name}.weights", p)
    loss = (out * wave(0.7, B, H, LQ, DV)).sum() + (lse * wave(1.1, B, H, LQ, 1)).sum()
    gradients(name, x, loss, ["q", "k", "v", *wrt])


def local(name, score, wrt):
    x = inputs()
    lengths = padding.sum(-1).to(torch.float64)[:, None, None]
    hidden = torch.tanh(x["q"] @ x["w_p"].transpose(-1, -2))
    place = (lengths * torch.sigmoid((x["v_p"] * hidden).sum(-1))).unsqueeze(-1)
    distance = torch.arange(LK, dtype=torch.float64) - place
    seen = (distance.abs() <= WINDOW) & padding[:, None, None, :]
    p = torch.softmax(score(x).masked_fill(~seen, -INF), -1)
    p = p * torch.exp(-(distance**2) / (2 * (WINDOW / 2) ** 2))
    out = p @ x["v"]
    record(f"{name}.out", out)
    record(f"{name}.place", place)
    record(f"{name}.weights", p)
    gradients(name, x, (out * wave(0.7, B, H, LQ, DV)).sum(), ["q", "k", "v", "w_p", "v_p", *wrt])


whole("additive", bahdanau, ["v_a"])
whole("dot", dot, [])
whole("general", general, ["w"])
whole("concat", concat, ["w_concat", "v_a"])
local("local_dot", dot, [])
local("local_general", general, ["w"])

OUT.write_text("\n".join(records) + "\n")
