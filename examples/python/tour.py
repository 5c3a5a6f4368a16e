"""A tour of the Python module: attention with a mask and a score, what it saw, gradients, a page.

    pip install .
    python examples/python/tour.py [page.html]
"""

import sys

import attn
import numpy as np

rng = np.random.default_rng(0)
tokens = "the quick brown fox jumps over the lazy dog".split()
heads, kv_heads, length, width = 8, 2, len(tokens), 32

# [batch, length, heads, width], as projections write it; transposed views are read without a copy.
q = rng.standard_normal((1, length, heads, width)).astype(np.float32).transpose(0, 2, 1, 3)
k = rng.standard_normal((1, length, kv_heads, width)).astype(np.float32).transpose(0, 2, 1, 3)
v = rng.standard_normal((1, length, kv_heads, width)).astype(np.float32).transpose(0, 2, 1, 3)

# Which keys a query may see is one value, how a visible pair is scored another.
mask = attn.Mask.causal() & (attn.Mask.window(3, 0) | attn.Mask.global_tokens([0]))
score = attn.Score(alibi=True)
print(mask)
print(mask.ascii(length, length))

q, k = attn.rope(q), attn.rope(k)
out, lse = attn.attention(q, k, v, mask=mask, score=score, return_lse=True)
oracle = attn.reference.attention(q, k, v, mask=mask, score=score)
print("out", out.shape, "lse", lse.shape, "largest error", abs(out - oracle).max())

# The same work, planned once and run often.
plan = attn.plan((1, heads, kv_heads, length, length, width), mask=mask, score=score)
assert (plan.run(q, k, v) == out).all()
print(plan.explain())

# What heads do, without a matrix of probabilities; and gradients, from the log-sum-exp alone.
_, seen = attn.observe(q, k, v, mask=mask, score=score, entropy=True, top_k=2, column_mass=True)
print("head 0, last word: entropy", seen.entropy[0, 0, -1].round(2), end="")
print(", reads", [tokens[key] for key in seen.top_keys[0, 0, -1]])
d = attn.backward(q, k, v, out, lse, np.ones_like(out), mask=mask, score=score)
print("gradients", d.q.shape, d.k.shape, d.v.shape)

# What every head attends to, as one HTML file; in a notebook, `page` alone shows it.
page = attn.view(q[0], k[0], tokens, mask=mask, score=score, v=v[0], title="a tour")
for finding in page.findings():
    print(finding)
if len(sys.argv) > 1:
    print(page.save(sys.argv[1]))
