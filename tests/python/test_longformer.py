"""attn.longformer_attention: local rows and global rows, each as the masks say."""

import attn
import numpy as np
import pytest


def softmax_attention(q, k, v, visible, scale):
    s = np.where(visible, np.einsum("bhid,bhjd->bhij", q, k) * scale, -np.inf)
    p = np.exp(s - s.max(-1, keepdims=True))
    return np.einsum("bhij,bhjd->bhid", p / p.sum(-1, keepdims=True), v)


@pytest.mark.parametrize("length, window, tokens, dilation, lengths", [
    (1, 4, [0], 1, None),
    (37, 4, [0, 17], 1, None),
    (40, 3, [5], [1, 2, 5], None),
    (40, 3, [39], 2, None),
    (33, 2, [0, 3], 1, [33, 20]),
    (20, 2, [], 1, None),
])
def test_against_numpy(length, window, tokens, dilation, lengths):
    rng = np.random.default_rng(0)
    q, k, v, gk, gv = rng.standard_normal((5, 2, 3, length, 8))
    gq = rng.standard_normal((2, 3, len(tokens), 8))
    got = attn.longformer_attention(q, k, v, gq, gk, gv, window=window, global_tokens=tokens,
                                    dilation=dilation, lengths=lengths)
    i, j = np.arange(length)[:, None], np.arange(length)[None]
    distance, step = abs(i - j), np.reshape(dilation, (-1, 1, 1))
    visible = ((distance % step == 0) & (distance <= window * step)) | np.isin(j, tokens)
    real = j < np.reshape([length] * 2 if lengths is None else lengths, (2, 1, 1, 1))
    expected = softmax_attention(q, k, v, visible[None] & real, 8**-0.5)
    if tokens:
        expected[:, :, tokens] = softmax_attention(gq, gk, gv, real, 8**-0.5)
    rows = np.ones((2, 1, length, 1), bool) if lengths is None else real.swapaxes(2, 3)
    np.testing.assert_allclose(got * rows, expected * rows, atol=1e-13)


def test_without_projections_of_their_own():
    x = np.random.default_rng(1).standard_normal((3, 1, 2, 50, 8)).astype(np.float32)
    one = attn.longformer_attention(*x, window=4, global_tokens=[0, 20])
    assert (one == attn.attention(*x, mask=attn.Mask.longformer(4, [0, 20]))).all()
    apart = attn.longformer_attention(*x, x[0][:, :, [0, 20]], x[1], x[2], window=4,
                                      global_tokens=[0, 20])
    assert (one == apart).all()
