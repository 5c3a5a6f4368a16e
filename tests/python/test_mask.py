"""attn.Mask: constructors, algebra, questions, pictures."""

import copy
import gc
import pickle
import weakref

import attn
import numpy as np
import pytest

Mask = attn.Mask
I, J = np.arange(12)[:, None], np.arange(12)[None]

CASES = {
    "full": (Mask.full(), I * 0 + J * 0 == 0),
    "causal": (Mask.causal(), J <= I),
    "window": (Mask.window(2, 1), (J >= I - 2) & (J <= I + 1)),
    "dilated": (Mask.dilated_window(2, 0, 3), np.isin(J - I, [-6, -3, 0])),
    "global": (Mask.global_tokens([0, 5]), np.isin(I, [0, 5]) | np.isin(J, [0, 5])),
    "blocks": (Mask.blocks(4, [(0, 0), (1, 2)]), ((I < 4) & (J < 4)) | ((I // 4 == 1) & (J // 4 == 2))),
    "block window": (Mask.block_window(4, 1, 0), (J // 4 == I // 4) | (J // 4 == I // 4 - 1)),
    "global blocks": (Mask.global_blocks(5, 1, 1), (I < 5) | (J < 5) | (I >= 10) | (J >= 10)),
    "longformer": (Mask.longformer(2, [5], 2), np.isin(J - I, [-4, -2, 0, 2, 4]) | (I == 5) | (J == 5)),
    "documents": (Mask.documents([5, 4]), ((I < 5) & (J < 5)) | ((I // 5 == 1) & (I < 9) & (J >= 5) & (J < 9))),
    "prefix": (Mask.causal() | Mask.prefix(4), (J <= I) | (J < 4)),
    "padding": (Mask.padding([9]), (J < 9) & (I >= 0)),
    "padding left": (Mask.padding([9], side="left"), (J >= 3) & (I >= 0)),
    "and": (Mask.causal() & Mask.window(3, 3), (J <= I) & (J >= I - 3)),
    "dense": (Mask.dense((I + J) % 3 == 0), (I + J) % 3 == 0),
    "predicate": (Mask.predicate(lambda b, h, q, k: k % 2 == q % 2), J % 2 == I % 2),
    "predicate scalar": (Mask.predicate(lambda b, h, q, k: q != 3), (I != 3) & (J >= 0)),
}


@pytest.mark.parametrize("name", CASES)
def test_each_mask_is_its_rule(name):
    mask, expected = CASES[name]
    visible = mask.visible(12, 12)
    assert visible.dtype == bool and visible.shape == (1, 1, 12, 12)
    np.testing.assert_array_equal(visible[0, 0], expected)
    assert mask.pairs(12, 12) == expected.sum()
    assert mask.pairs(12, 12, batch=2 if "padding" not in name else 1, heads=3) % expected.sum() == 0
    assert mask.empty_rows(12, 12) == np.flatnonzero(~expected.any(1)).tolist()
    assert mask.sees_future(12, 12) == bool((expected & (J > I)).any())


def test_random_blocks():
    mask = Mask.random_blocks(4, 3, seed=7)
    seen = mask.visible(64, 64, heads=2)[0].reshape(2, 16, 4, 16, 4)
    blocks = seen.all((2, 4))
    assert (blocks == seen.any((2, 4))).all() and (blocks[0] != blocks[1]).any()
    row, column = np.indices((16, 16))
    taken = (abs(row - column) <= 1) | np.isin(row, [0, 15]) | np.isin(column, [0, 15])
    assert not (blocks & taken).any()
    assert (blocks.sum(2)[:, 1:15] == 3).all()
    assert str(mask) == "random_blocks(4, 3, 7)" and str(Mask.parse(str(mask))) == str(mask)
    assert str(Mask.random_blocks(seed=2**64 - 1)) == "random_blocks(64, 3, -1)"
    bigbird = Mask.bigbird(4, 3, seed=7).visible(64, 64, heads=2)[0].reshape(2, 16, 4, 16, 4)
    assert (bigbird.all((2, 4)) == (blocks | taken)).all()
    assert str(Mask.bigbird_extended(2, 4, 1)).startswith("block_window(4, 1, 1) | global_blocks(1, 2, 0)")
    for wrong in (dict(size=0), dict(count=-1), dict(count=65537), dict(band=-1)):
        with pytest.raises(ValueError):
            Mask.random_blocks(**wrong)


def test_positions():
    mask = Mask.causal()
    assert mask.pairs(4, 12) == 1 + 2 + 3 + 4
    assert mask.pairs(4, 12, query_start=8) == 9 + 10 + 11 + 12
    assert mask.pairs(2, 3, q_positions=[5, 7], k_positions=np.array([4, 6, 8])) == 1 + 2
    with pytest.raises(ValueError):
        mask.pairs(2, 3, q_positions=[5])


@pytest.mark.parametrize("shape", [(7,), (5, 7), (3, 1, 7), (2, 1, 5, 7), (2, 3, 1, 1), (1, 1)])
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.int64])
def test_dense_broadcasts(shape, dtype):
    rng = np.random.default_rng(0)
    given = (rng.random(shape) < 0.5).astype(dtype) * (256 if dtype in (np.int32, np.int64) else 1)
    expected = np.broadcast_to(given != 0, (2, 3, 5, 7))
    visible = Mask.dense(given).visible(5, 7, batch=2, heads=3)
    np.testing.assert_array_equal(visible, expected)


def test_dense_of_a_view_and_of_the_wrong_kind():
    given = np.zeros((12, 12), bool)
    given[::2] = True
    np.testing.assert_array_equal(Mask.dense(given.T).visible(12, 12)[0, 0], given.T)
    np.testing.assert_array_equal(Mask.dense(given[::-1, ::2]).visible(12, 6)[0, 0], given[::-1, ::2])
    with pytest.raises(ValueError, match="Score"):
        Mask.dense(given.astype(np.float32))
    with pytest.raises(ValueError, match="5 dimensions"):
        Mask.dense(np.zeros((1, 1, 1, 2, 2), bool))


def test_per_head_and_per_batch():
    heads = Mask.per_head([Mask.causal(), Mask.full()])
    visible = heads.visible(4, 4, heads=2)[0]
    assert visible[0].sum() == 10 and visible[1].sum() == 16
    batch = Mask.per_batch([Mask.causal(), Mask.window(0, 0)])
    visible = batch.visible(4, 4, batch=2)[:, 0]
    assert visible[0].sum() == 10 and visible[1].sum() == 4
    with pytest.raises(ValueError):
        heads.pairs(4, 4, heads=3)


def test_a_predicate_works_in_attention_and_its_errors_come_back():
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 3, 40, 8)).astype(np.float32) for _ in range(3))
    mask = Mask.predicate(lambda b, h, i, j: (j <= i) & (j % 2 == 0))
    dense = (np.arange(40)[None] <= np.arange(40)[:, None]) & (np.arange(40)[None] % 2 == 0)
    out = attn.attention(q, k, v, mask=mask)
    np.testing.assert_array_equal(out, attn.attention(q, k, v, mask=Mask.dense(dense)))

    def wrong(b, h, i, j):
        raise KeyError("from the predicate")

    for call in (
        lambda m: attn.attention(q, k, v, mask=m),
        lambda m: attn.attention(q, k, v, mask=m, threads=2),
        lambda m: m.pairs(4, 4),
        lambda m: attn.plan((2, 3, 3, 40, 40, 8), mask=m),
    ):
        with pytest.raises(KeyError, match="from the predicate"):
            call(Mask.causal() & Mask.predicate(wrong))


def test_a_mask_that_refers_to_itself_is_collected():
    class Owner:
        def __init__(self):
            self.mask = Mask.causal() & Mask.predicate(self.sees)

        def sees(self, b, h, i, j):
            return j <= i

    owner = Owner()
    assert owner.mask.pairs(3, 3) == 6
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is None


def test_text_and_pictures():
    mask = Mask.causal() & Mask.window(255, 0)
    assert str(Mask.parse(str(mask))) == str(mask)
    assert repr(mask) == f"Mask({mask})"
    assert len(Mask.causal().ascii(8, 8).splitlines()) >= 8
    for svg in (mask.svg(64, 64), mask._repr_svg_()):
        assert svg.startswith("<svg") and svg.rstrip().endswith("</svg>")
    assert Mask.per_head([mask, mask])._repr_svg_() is None


def test_masks_are_pickled_and_copied():
    mask = Mask.per_head([Mask.causal() & Mask.window(3, 0), Mask.blocks(4, [])])
    assert str(pickle.loads(pickle.dumps(mask))) == str(mask)
    predicate = Mask.causal() & Mask.predicate(lambda b, h, i, j: j <= i)
    dense = Mask.dense(np.tri(3, dtype=bool))
    for m in (mask, predicate, dense):
        assert copy.copy(m) is m and copy.deepcopy([m])[0] is m  # it is immutable
    for m in (predicate, dense):
        with pytest.raises(TypeError, match="cannot be pickled: dense and predicate masks"):
            pickle.dumps(m)


def test_mistakes():
    for wrong in (
        lambda: Mask.dilated_window(1, 1, 0),
        lambda: Mask.padding([-1]),
        lambda: Mask.padding([1], side="top"),
        lambda: Mask.parse("frobnicate"),
        lambda: Mask.causal().pairs(-1, 4),
        lambda: Mask.causal().visible(-1, 4),
    ):
        with pytest.raises(ValueError):
            wrong()
    with pytest.raises(TypeError):
        Mask.padding(["a"])
    with pytest.raises(TypeError):
        Mask.causal() & 3
