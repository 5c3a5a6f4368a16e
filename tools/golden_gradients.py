"""Writes tests/data/golden_gradients.txt: gradients of exact attention as PyTorch's autograd has them.

    pip install torch && python tools/golden_gradients.py

One record a line: name, number of values, values. All in float64, through a dense eager formula; the
inputs are sines that the test makes again. Made with torch 2.13 (CPU).
"""

import pathlib

import torch

OUT = pathlib.Path(__file__).parent.parent / "tests" / "data" / "golden_gradients.txt"
INF = float("inf")
records = []


def wave(phase, *shape):
    """sin(phase + 0.37 i) over the elements i in order."""
    n = torch.Size(shape).numel()
    return torch.sin(phase + 0.37 * torch.arange(n, dtype=torch.float64)).reshape(shape)


def philox(counter, key):
    """Philox4x32-10, from the paper (Salmon et al., SC 2011)."""
    mask = 0xFFFFFFFF
    for _ in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [(b >> 32) ^ counter[1] ^ key[0], b & mask, (a >> 32) ^ counter[3] ^ key[1], a & mask]
        key = [(key[0] + 0x9E3779B9) & mask, (key[1] + 0xBB67AE85) & mask]
    return counter


def dropout_factor(p, seed, b, h, q, k):
    word = philox([k // 8, q, h, b], [seed & 0xFFFFFFFF, seed >> 32])[k % 8 // 2]
    field, threshold = (word >> 16 * (k % 2)) & 0xFFFF, round(p * 65536)
    return 65536 / (65536 - threshold) if field >= threshold else 0.0


B, HQ, HKV, LQ, LK, D, DV, START = 2, 4, 2, 4, 9, 4, 3, 3
distance = torch.arange(LK)[None, :] - (torch.arange(LQ)[:, None] + START)  # k_pos - q_pos


def t5_bucket(relative, buckets=8, max_distance=6):
    """Transformers' T5Attention._relative_position_bucket, both sides."""
    half, d = buckets // 2, relative.abs()
    exact = half // 2
    far = exact + (torch.log(d.float() / exact) / torch.log(torch.tensor(max_distance / exact)) * (half - exact)).long()
    return (relative > 0) * half + torch.where(d < exact, d, far.clamp(max=half - 1))


def attention(x, visible, scale, cap=0.0, dropout=None):
    """out, lse (without the sink), entropy (with it); x holds leaves of the graph."""
    k, v = (x[n].repeat_interleave(HQ // HKV, 1) for n in "kv")
    s = x["q"] @ k.transpose(-1, -2) * scale
    if cap:
        s = cap * torch.tanh(s / cap)
    if "bias" in x:
        s = s + x["bias"]
    if "slopes" in x:
        s = s - x["slopes"][:, None, None] * distance.abs()
    if "t5" in x:
        s = s + x["t5"][t5_bucket(distance)].permute(2, 0, 1)
    s = s.masked_fill(~visible, -INF)
    seen = ~torch.isinf(s)
    lse = torch.logsumexp(s, -1, keepdim=True)
    entries = s
    if "sinks" in x:
        entries = torch.cat([s, x["sinks"][None, :, None, None].expand(B, HQ, LQ, 1)], -1)
    log_p = torch.log_softmax(entries, -1)
    finite = ~torch.isinf(entries)
    log_p = torch.where(finite, log_p, 0.0)
    p = torch.where(finite, log_p.exp(), 0.0)
    entropy = -(p * log_p).sum(-1, keepdim=True)
    p = p[..., :LK]
    if dropout is not None:
        p = p * dropout
    assert bool((seen.sum(-1) > 0).all())
    return p @ v, lse, entropy


def record(name, parts, flows, visible=None, **how):
    leaves = {n: t.clone().requires_grad_() for n, t in parts.items()}
    for n, t in (("q", wave(0.1, B, HQ, LQ, D)), ("k", wave(0.2, B, HKV, LK, D)), ("v", wave(0.3, B, HKV, LK, DV))):
        leaves[n] = t.requires_grad_()
    visible = torch.ones(LQ, LK, dtype=torch.bool) if visible is None else visible
    out, lse, entropy = attention(leaves, visible, how.pop("scale", D**-0.5), **how)
    loss = (out * wave(0.7, B, HQ, LQ, DV)).sum() if "out" in flows else 0.0
    loss = loss + ((lse * wave(0.8, B, HQ, LQ, 1)).sum() if "lse" in flows else 0.0)
    loss = loss + ((entropy * wave(0.9, B, HQ, LQ, 1)).sum() if "entropy" in flows else 0.0)
    loss.backward()
    for n, t in leaves.items():
        grad = torch.zeros_like(t) if t.grad is None else t.grad
        values = grad.flatten().tolist()
        records.append(" ".join([f"{name}.{n}", str(len(values))] + ["%.16g" % v for v in values]))


causal = distance <= 0
slopes = torch.tensor([0.5, 0.25, 0.125, 0.0625], dtype=torch.float64)
table, sinks = wave(0.6, 8, HQ).float().double(), (2 * wave(0.5, HQ)).float().double()
full_bias, head_bias, key_bias = 3 * wave(0.4, B, HQ, LQ, LK), wave(0.4, 1, HQ, LQ, 1), wave(0.4, B, 1, 1, LK)
hiding = torch.where(full_bias < -1, -INF, full_bias)
dropped = torch.tensor(
    [[[[dropout_factor(0.4, 0x0123456789ABCDEF, b, h, START + i, j) for j in range(LK)] for i in range(LQ)]
      for h in range(HQ)] for b in range(B)], dtype=torch.float64)

record("plain", {}, ["out"])
record("causal", {}, ["out"], causal)
record("cap", {}, ["out"], causal, scale=1.5, cap=0.8)
record("bias", {"bias": full_bias}, ["out"])
record("bias_hides", {"bias": hiding}, ["out", "lse", "entropy"])
record("bias_heads", {"bias": head_bias}, ["out", "lse", "entropy"])
record("bias_keys", {"bias": key_bias}, ["out"], causal)
record("slopes", {"slopes": slopes}, ["out"])
record("t5", {"t5": table}, ["out"], scale=1.0)
record("sinks", {"sinks": sinks}, ["out"], causal)
record("lse", {}, ["lse"], causal)
record("entropy", {"sinks": sinks}, ["entropy"], causal)
record("dropout", {}, ["out"], causal, dropout=dropped)
record("all", {"bias": full_bias, "slopes": slopes, "t5": table, "sinks": sinks}, ["out", "lse", "entropy"],
       causal, scale=0.7, cap=0.9, dropout=dropped)

OUT.write_text("\n".join(records) + "\n")
