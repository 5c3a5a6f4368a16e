#!/usr/bin/env python3
"""Makes tests/data/recurrent.json: small models with a state (Mamba, Mamba-2, RWKV-4), as Transformers runs
them. Weights come from the formula of tools/golden_families.py.

Run it with an environment that has torch and transformers; the file names their versions."""

import torch
import torch.nn.functional as F
from golden_families import case_of, language_model, short, write

SIZES = dict(vocab_size=101, hidden_size=60, num_hidden_layers=2)
CASES = {
    "mamba": ("mamba", dict(SIZES, state_size=16)),
    "mamba, biases": ("mamba", dict(SIZES, state_size=5, use_bias=True, use_conv_bias=False,
                                    conv_kernel=3, expand=1, time_step_rank=7,
                                    tie_word_embeddings=False, pad_token_id=None)),
    "mamba2": ("mamba2", dict(SIZES, num_heads=6, head_dim=20, n_groups=2, state_size=16,
                              chunk_size=8)),
    "mamba2, limits": ("mamba2", dict(SIZES, num_heads=3, head_dim=40, n_groups=3, state_size=5,
                                      chunk_size=16, use_bias=True, use_conv_bias=False,
                                      conv_kernel=3, time_step_limit=(0.2, 0.9),
                                      tie_word_embeddings=True)),
    "rwkv": ("rwkv", SIZES),
    "rwkv, widths": ("rwkv", dict(SIZES, intermediate_size=76, layer_norm_epsilon=1e-3,
                                  tie_word_embeddings=True)),
}


LAYER = 1  # whose implied attention is kept


def gates_of(a, steps):
    """exp(a (t_i - t_j)) for j <= i, else 0, from steps of time [L, ...]; [i, j, ...]."""
    time = torch.cumsum(steps, 0)
    gates = torch.exp(a * (time[:, None] - time[None, :]))
    past = torch.ones(len(steps), len(steps)).tril()
    return gates * past.reshape(*past.shape, *[1] * (gates.dim() - 2))


def mamba(block, seen):
    """a_ij of channel d is sum_n C_i[n] exp(A[d, n] (t_i - t_j)) B_j[n] dt_j[d]."""
    m, rank, n = block.mixer, block.mixer.time_step_rank, block.mixer.ssm_state_size
    b, c = seen["x_proj"][:, rank:rank + n], seen["x_proj"][:, rank + n:]
    dt = F.softplus(m.dt_proj(seen["x_proj"][:, :rank]))
    gates = gates_of(-torch.exp(m.A_log), dt[:, :, None])  # [i, j, d, n]
    return (torch.einsum("in,ijdn,jn->ijd", c, gates, b) * dt).abs().sum(-1)[None]


def mamba2(block, seen):
    """a_ij of head h is (C_i . B_j) exp(A_h (t_i - t_j)) dt_j[h], B and C of the head's group."""
    m = block.mixer
    inner, out = m.intermediate_size, seen["in_proj"]
    x = m.conv1d(out[:, inner:-m.num_heads].mT).mT[:len(out)]
    b, c = F.silu(x[:, inner:]).chunk(2, -1)
    heads = lambda y: y.unflatten(-1, (m.n_groups, -1)).repeat_interleave(  # noqa: E731
        m.num_heads // m.n_groups, 1)
    dt = torch.clamp(F.softplus(out[:, -m.num_heads:] + m.dt_bias), *m.time_step_limit)
    gates = gates_of(-torch.exp(m.A_log), dt)  # [i, j, h]
    return (torch.einsum("ihn,jhn->ijh", heads(c), heads(b)) * gates * dt).abs().permute(2, 0, 1)


def rwkv(block, seen):
    """A mean over tokens with weights e^(k_j - (i - 1 - j) e^decay), e^(k_i + first) for itself."""
    k, a = seen["key"].double(), block.attention
    place = torch.arange(len(k))
    back = (place[:, None] - place[None, :] - 1)[:, :, None]
    weights = torch.where(back >= 0, torch.exp(k - back * torch.exp(a.time_decay.double())), 0.0)
    weights += torch.eye(len(k))[:, :, None] * torch.exp(k + a.time_first)
    return (weights / weights.sum(1, keepdim=True)).sum(-1)[None]


def implied(model_type, model, ids):
    """The attention that a layer implies, [heads][L][L], from what its projections put out."""
    block = (model.rwkv.blocks if model_type == "rwkv" else model.backbone.layers)[LAYER]
    seen = {}
    for name, module in (block.attention if model_type == "rwkv" else block.mixer).named_modules():
        module.register_forward_hook(
            lambda _, __, out, name=name: seen.update({name: out[0]}) if name else None)
    model(torch.tensor([ids]))
    rows = {"mamba": mamba, "mamba2": mamba2, "rwkv": rwkv}[model_type](block, seen)
    return [[short(row) for row in head] for head in rows / rows.sum(-1, keepdim=True)]


def main():
    torch.manual_seed(0)
    cases = {}
    for name, (model_type, settings) in CASES.items():
        config, model = language_model(model_type, settings)
        cases[name] = case_of(config, model)
        with torch.no_grad():
            cases[name]["implied"] = implied(model_type, model, cases[name]["runs"][1]["ids"])
    write("recurrent.json", cases, "tools/golden_recurrent_models.py")


if __name__ == "__main__":
    main()
