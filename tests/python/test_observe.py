"""attn.observe: answers against the matrix of probabilities, written out in NumPy."""

import attn
import numpy as np
import pytest


def problem(dtype=np.float32, lq=20, lk=31):
    rng = np.random.default_rng(0)
    q = rng.standard_normal((2, 4, lq, 8)).astype(dtype)
    k, v = rng.standard_normal((2, 2, 2, lk, 8)).astype(dtype)
    return q, k, v


QUESTIONS = {
    "lse": True,
    "max_logit": True,
    "entropy": True,
    "relative_entropy": True,
    "max_probability": True,
    "mean_variance": True,
    "value_weighted": True,
    "column_mass": True,
    "top_k": 3,
    "distances": (1, 4, 5),
    "offsets": [0, 1, 7],
    "key_sets": [[0], [3, 4, 30]],
    "picture": (5, 7),
    "rows": [0, 19],
}
CALL = {"mask": attn.Mask.causal() & attn.Mask.window(9, 0), "query_start": 11}


def expected():
    q, k, v = (x.astype(np.float64) for x in problem())
    lq, lk = q.shape[2], k.shape[2]
    p = attn.reference.weights(q, k, **CALL)
    s = q @ k.repeat(2, axis=1).swapaxes(-1, -2) / np.sqrt(8)
    i, j = np.arange(11, 11 + lq)[:, None], np.arange(lk)[None]
    visible = (j <= i) & (j >= i - 9)
    s = np.where(visible, s, -np.inf)
    log_p = np.log(np.where(p > 0, p, 1))
    entropy = -(p * log_p).sum(-1)
    count = visible.sum(-1)
    distance = i - j
    bins = np.where(distance < 1, 0, np.minimum((distance - 1) // 4 + 1, 4))
    top = np.argsort(-p, axis=-1, kind="stable")[..., :3]
    norms = np.linalg.norm(v, axis=-1).repeat(2, axis=1)
    row_edges = [r * lq // 5 for r in range(6)]
    column_edges = [c * lk // 7 for c in range(8)]
    cells = [
        [p[:, :, a:b, c:d] for c, d in zip(column_edges, column_edges[1:])]
        for a, b in zip(row_edges, row_edges[1:])
    ]

    def pooled(f):
        return np.moveaxis([[f(cell) for cell in row] for row in cells], (0, 1), (2, 3))

    return {
        "lse": np.log(np.exp(s).sum(-1)),
        "max_logit": s.max(-1),
        "entropy": entropy,
        "relative_entropy": entropy / np.where(count > 1, np.log(np.maximum(count, 2)), 1),
        "max_probability": p.max(-1),
        "mean_variance": (p * (1 - p)).sum(-1) / count,
        "value_weighted": (p * norms[:, :, None, :]).sum(-1),
        "column_mass": p.sum(2),
        "top_keys": top,
        "top_weights": np.take_along_axis(p, top, -1),
        "distances": np.stack([(p * (bins == n)).sum((2, 3)) for n in range(5)], -1),
        "offsets": np.stack([(p * (distance == n)).sum((2, 3)) for n in (0, 1, 7)], -1),
        "offset_queries": np.broadcast_to([20, 20, 20], (2, 4, 3)),
        "key_sets": np.stack([p[..., keys].sum(-1) for keys in QUESTIONS["key_sets"]], -1),
        "picture_largest": pooled(lambda c: c.max((2, 3))),
        "picture_mean": pooled(lambda c: c.mean((2, 3))),
        "rows": p[:, :, [0, 19]],
    }


@pytest.mark.parametrize("observe", [attn.observe, attn.reference.observe])
def test_every_question(observe):
    q, k, v = problem()
    out, seen = observe(q, k, v, **QUESTIONS, **CALL)
    answers = expected()
    assert sorted(seen.names) == sorted(answers)
    for name, value in answers.items():
        answer = getattr(seen, name)
        assert answer.shape == value.shape, name
        if name == "top_keys":
            assert answer.dtype == np.int32
            np.testing.assert_array_equal(answer, value)
        else:
            np.testing.assert_allclose(answer, value, rtol=0, atol=5e-6, err_msg=name)
    np.testing.assert_allclose(out, attn.attention(q, k, v, **CALL), rtol=0, atol=2e-6)


def test_asking_changes_no_bit():
    q, k, v = problem()
    out, _ = attn.observe(q, k, v, **QUESTIONS, **CALL)
    np.testing.assert_array_equal(out, attn.attention(q, k, v, **CALL))


def test_what_is_not_asked_is_none():
    q, k, v = problem(np.float64)
    _, seen = attn.observe(q, k, v, entropy=True)
    assert seen.names == ["entropy"] and seen.column_mass is None
    assert repr(seen) == "Answers(entropy [2, 4, 20])"
    assert seen.entropy.dtype == np.float64
    _, nothing = attn.observe(q, k, v)
    assert nothing.names == []


def test_fewer_keys_than_asked():
    q, k, v = problem()
    _, seen = attn.observe(q, k, v, top_k=3, mask=attn.Mask.causal())
    np.testing.assert_array_equal(seen.top_keys[0, 0, 0], [0, -1, -1])
    np.testing.assert_array_equal(seen.top_weights[0, 0, 0], [1, 0, 0])
    _, seen = attn.observe(q, k, v, picture=(500, 500))
    assert seen.picture_mean.shape == (2, 4, 20, 31)


def test_dropout_is_not_observed():
    q, k, v = problem()
    _, plain = attn.observe(q, k, v, entropy=True, column_mass=True)
    _, dropped = attn.observe(
        q, k, v, entropy=True, column_mass=True, dropout=attn.Dropout(0.5, seed=1)
    )
    np.testing.assert_array_equal(plain.entropy, dropped.entropy)
    np.testing.assert_array_equal(plain.column_mass, dropped.column_mass)


def test_questions_as_a_value():
    assert repr(attn.Questions(entropy=True, offsets=[1, 2], picture=(4, 5))) == (
        "Questions(entropy=True, offsets=[1, 2], picture=[4, 5])"
    )


def test_mistakes():
    q, k, v = problem()
    for says, questions in {
        "top_k is -1": {"top_k": -1},
        "31, must be 0 to 30": {"key_sets": [[31]]},
        "20, must be 0 to 19": {"rows": [20]},
        "distances has -2": {"distances": (1, 1, -2)},
    }.items():
        with pytest.raises(ValueError, match=says):
            attn.observe(q, k, v, **questions)
    with pytest.raises(TypeError, match="relative_entropy"):
        attn.observe(q, k, v, entropi=True)
