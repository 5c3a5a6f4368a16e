"""Writes tests/data/golden_recurrent.txt: recurrences with a matrix state as others compute them.

    ~/.cache/attn/torch-venv/bin/python tools/golden_recurrent.py   # tools/torch_venv.sh makes it

One record a line: name, number of values, values; NAME.out is [H, L, Dv], NAME.state [H, Dk, Dv]. Each
mechanism in the form in which its authors published it, in float64, or by Transformers' code, which
computes in float32; never by way of ours. The inputs are whole numbers that the test makes again. Made
with torch 2.13 (CPU), transformers 5.24.
"""

import math
import pathlib

import torch
import torch.nn.functional as F
from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan
from transformers.models.qwen3_next import modeling_qwen3_next as qwen

OUT = pathlib.Path(__file__).parent.parent / "tests" / "data" / "golden_recurrent.txt"
H, L, DK, DV = 2, 68, 6, 3  # tokens: one chunk of 64 and a part
torch.set_default_dtype(torch.float64)
records = []


def made(seed, *shape):
    """Numbers in [-1, 1], the same in every language: (7 i^2 + 13 seed i + 101 seed) mod 1009."""
    i = torch.arange(torch.Size(shape).numel(), dtype=torch.int64)
    return ((i * i * 7 + i * seed * 13 + seed * 101) % 1009 / 504 - 1).reshape(shape)


def record(name, values, digits=12):
    numbers = [f"%.{digits}g" % v for v in values.flatten().tolist()]
    records.append(" ".join([name, str(len(numbers)), *numbers]))


q, k, v = made(1, H, L, DK), made(2, H, L, DK), made(3, H, L, DV)
before = made(4, H, DK, DV)


def linear():
    """Katharopoulos et al. 2020 (2006.16236), equation 8, elu(x) + 1, over all pairs."""
    weights = ((F.elu(q) + 1) @ (F.elu(k) + 1).mT).tril()
    return weights @ v / weights.sum(-1, keepdim=True)


def retnet():
    """Sun et al. 2023 (2307.08621), equation 5: the parallel form, (Q K^T * D) V; no xPos."""
    n, m = torch.arange(L)[:, None], torch.arange(L)[None, :]
    gamma = 1 - 2.0 ** (-5 - torch.arange(H))
    decay = torch.where(n >= m, gamma[:, None, None] ** (n - m).clamp(min=0), 0.0)
    return (q @ k.mT * decay) @ v


def gla():
    """Yang et al. 2023 (2312.06635), equation 3: S = diag(alpha) S + k v^T, alpha = sigmoid()^(1/16)."""
    alpha = torch.sigmoid(4 * made(5, H, L, DK)) ** (1 / 16)
    state, out = before.clone(), []
    for t in range(L):
        state = alpha[:, t, :, None] * state + k[:, t, :, None] * v[:, t, None, :]
        out.append((q[:, t, :, None] * state).sum(-2))
    return torch.stack(out, 1), state


def rwkv(w):
    """BlinkDL/RWKV-LM, wkv5_cuda.cu and wkv6_cuda.cu: for each value _v of a channel,
    y += r[j] * (u[j] * k[j] * _v + s[j]); s[j] = s[j] * w[j] + k[j] * _v.  w [H, L or 1, Dk]."""
    u = made(6, H, DK)
    state, out = before.clone(), torch.zeros(H, L, DV)
    for h in range(H):
        for t in range(L):
            wt = w[h, t if w.shape[1] > 1 else 0]
            for i in range(DV):
                x = k[h, t] * v[h, t, i]
                out[h, t, i] = (q[h, t] * (u[h] * x + state[h, :, i])).sum()
                state[h, :, i] = state[h, :, i] * wt + x
    return out, state


def rwkv7():
    """BlinkDL/RWKV-LM, RWKV-v7, wkv7.cu: sa = sum a[j] s[j]; s[j] = s[j] w[j] + k[j] v + sa b[j];
    y = sum s[j] r[j] for each value, with its a = -kappa^ and b = kappa^ * in-context rate."""
    w = torch.exp(-math.exp(-0.5) * torch.sigmoid(2 * made(12, H, L, DK)))
    kappa = F.normalize(made(13, H, L, DK), dim=-1)
    a, b = -kappa, kappa * torch.sigmoid(3 * made(14, H, L, DK))
    state, out = before.clone(), torch.zeros(H, L, DV)
    for h in range(H):
        for t in range(L):
            for i in range(DV):
                sa = (a[h, t] * state[h, :, i]).sum()
                state[h, :, i] = state[h, :, i] * w[h, t] + k[h, t] * v[h, t, i] + sa * b[h, t]
                out[h, t, i] = (state[h, :, i] * q[h, t]).sum()
    return out, state


unit = F.normalize(k, dim=-1)
beta = torch.sigmoid(3 * made(7, H, L))


def deltanet(alpha):
    """Yang et al. 2024 (2412.06464), equation 10; with alpha = 1 that of DeltaNet (2406.06484):
    S_t = S_{t-1} alpha_t (I - beta_t k_t k_t^T) + beta_t v_t k_t^T, o_t = S_t q_t; S is [Dv, Dk]."""
    state, out = before.mT.clone(), []
    for t in range(L):
        kt, b = unit[:, t], beta[:, t, None, None]
        erase = torch.eye(DK) - b * kt[:, :, None] * kt[:, None, :]
        state = state @ (alpha[:, t, None, None] * erase) + b * v[:, t, :, None] * kt[:, None, :]
        out.append((state @ q[:, t, :, None])[..., 0])
    return torch.stack(out, 1), state.mT


log_alpha = -0.5 * F.softplus(made(8, H, L))


def gated_deltanet_of_transformers():
    """torch_chunk_gated_delta_rule of Qwen3-Next, [B, L, H, D]; it divides queries by sqrt(Dk)."""
    arguments = [x.transpose(0, 1)[None] for x in (q * DK**0.5, unit, v, log_alpha, beta)]
    more = {"initial_state": before[None], "output_final_state": True}
    chunked = qwen.torch_chunk_gated_delta_rule(*arguments, **more)
    by_token = qwen.torch_recurrent_gated_delta_rule(*arguments, **more)
    for one, other in zip(chunked, by_token):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0, check_dtype=False)
    return chunked[0][0].transpose(0, 1), chunked[1][0]


# Mamba-2: q is C, k is B, one group for all heads.
a = -torch.tensor([0.5, 2.0])
dt = F.softplus(2 * made(9, H, L) - 1)


def segsum(x):
    """Listing 1's stable segment sum: out[i, j] = x[j + 1] + ... + x[i], -inf above the diagonal."""
    n = x.size(-1)
    x = x[..., None].expand(*x.shape, n)
    x = x.masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(-1), 0)
    return x.cumsum(-2).masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(), -torch.inf)


def ssd(block=17):
    """Dao and Gu 2024 (2405.21060), Listing 1 (ssd_minimal.py), [B, chunks, block, H, ...]."""
    chunks = lambda x: x.transpose(0, 1)[None].unflatten(1, (L // block, block))  # noqa: E731
    x = chunks(v * dt[..., None])
    A = chunks(a[:, None] * dt).permute(0, 3, 1, 2)
    B, C = (chunks(z[:1].expand(H, L, DK)) for z in (k, q))
    A_cumsum = A.cumsum(-1)
    decay = torch.exp(segsum(A))
    y_diagonal = torch.einsum("bclhn,bcshn,bhcls,bcshp->bclhp", C, B, decay, x)
    decay_states = torch.exp(A_cumsum[..., -1:] - A_cumsum)
    states = torch.einsum("bclhn,bhcl,bclhp->bchpn", B, decay_states, x)
    states = torch.cat([before.mT[None, None], states], 1)
    decay_chunk = torch.exp(segsum(F.pad(A_cumsum[..., -1], (1, 0))))
    states = torch.einsum("bhzc,bchpn->bzhpn", decay_chunk, states)
    y_off = torch.einsum("bclhn,bchpn,bhcl->bclhp", C, states[:, :-1], torch.exp(A_cumsum))
    return (y_diagonal + y_off).flatten(1, 2)[0].transpose(0, 1), states[0, -1].mT


def ssd_of_transformers():
    """Mamba2Mixer's path without kernels, with D, dt_bias, softplus and limits."""
    x, raw = v.transpose(0, 1)[None], (2 * made(9, H, L) - 1).transpose(0, 1)[None]
    B, C = (z[0][None, :, None] for z in (k, q))
    out, state = mamba2_chunk_scan(
        x, raw, a, B, C, 16, D=torch.tensor([0.75, -1.25]), dt_bias=torch.tensor([0.25, -0.5]),
        initial_states=before.mT[None], dt_softplus=True, dt_limit=(0.125, 0.75),
        return_final_states=True)  # fmt: skip
    return out[0].transpose(0, 1), state[0].mT


record("linear.out", linear())
record("retnet.out", retnet())
w5, w6 = torch.exp(-torch.exp(made(10, H, 1, DK))), torch.exp(-torch.exp(2 * made(11, H, L, DK)))
for name, digits, (out, state) in (
    ("gla", 12, gla()),
    ("rwkv5", 12, rwkv(w5)),
    ("rwkv6", 12, rwkv(w6)),
    ("rwkv7", 12, rwkv7()),
    ("deltanet", 12, deltanet(torch.ones(H, L))),
    ("gated_deltanet", 12, deltanet(log_alpha.exp())),
    ("gated_deltanet_transformers", 9, gated_deltanet_of_transformers()),
    ("mamba2", 12, ssd()),
    ("mamba2_transformers", 9, ssd_of_transformers()),
):
    record(f"{name}.out", out, digits)
    record(f"{name}.state", state, digits)
OUT.write_text("\n".join(records) + "\n")
