"""attn.view and attn.load: pages and models."""

import inspect
import os
import subprocess
import sys

import attn
import numpy as np
import pytest

TOKENS = ["[CLS]", "the", "cat", "sat", "[SEP]"]


def heads(n=4, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 5, 8)).astype(np.float32)


def test_a_page_from_arrays(tmp_path):
    q, k, v = heads(4), heads(2, 1), heads(2, 2)
    page = attn.view(q, k, TOKENS, mask=attn.Mask.causal(), v=v, special=[0, 4], title="a & b")
    assert page.tokens == TOKENS
    html = page.html()
    assert html.lstrip().startswith("<!") and "</html>" in html
    path = page.save(tmp_path / "page.html")
    assert path == str(tmp_path / "page.html")
    with open(path, encoding="utf-8") as file:
        assert file.read() == html
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    frame = page._repr_html_()
    assert frame.startswith("<iframe") and '"' not in frame.split('srcdoc="', 1)[1].rsplit('"', 1)[0]

    weights = attn.reference.weights(q[None], k[None], mask=attn.Mask.causal())
    for head in range(4):
        for query in range(5):
            np.testing.assert_allclose(page.row(0, head, query), weights[0, head, query], atol=1e-12)
    statistics = page.statistics()
    assert [(s.layer, s.head) for s in statistics] == [(0, h) for h in range(4)]
    for s in statistics:
        np.testing.assert_allclose(s.first, weights[0, s.head, :, 0].mean(), atol=1e-6)
    assert len(page.findings(2)) == 2


def test_layers_and_scores():
    q, k = [heads(seed=i) for i in range(3)], [heads(seed=9 + i) for i in range(3)]
    page = attn.view(q, k, TOKENS, scale=0.5, score=attn.Score(alibi=True))
    weights = attn.reference.weights(q[2][None], k[2][None], scale=0.5, score=attn.Score(alibi=True))
    np.testing.assert_allclose(page.row(2, 1, 3), weights[0, 1, 3], atol=1e-12)
    single = attn.view(q[0][None], k[0][None], TOKENS)  # [1, heads, tokens, width]
    np.testing.assert_allclose(
        single.row(0, 0, 0), attn.reference.weights(q[0][None], k[0][None])[0, 0, 0], atol=1e-12
    )


def test_a_mask_and_a_score_a_layer():
    q, k = [heads(seed=i) for i in range(2)], [heads(seed=9 + i) for i in range(2)]
    masks = [attn.Mask.causal(), attn.Mask.window(1, 1)]
    bias = np.random.default_rng(5).standard_normal((1, 4, 5, 5)).astype(np.float32)
    scores = [attn.Score(bias=bias), attn.Score(soft_cap=2.0)]
    page = attn.view(q, k, TOKENS, mask=masks, score=scores, scale=0.5, words=[0, 1, 1, 2, 3])
    expected = [
        attn.reference.weights(q[i][None], k[i][None], mask=masks[i], score=scores[i], scale=0.5)
        for i in range(2)
    ]
    bias[:] = 0  # the page has its own
    for layer in range(2):
        for head in range(4):
            np.testing.assert_allclose(page.row(layer, head, 4), expected[layer][0, head, 4], atol=1e-12)
    assert "</html>" in page.html()


def test_mistakes():
    q, k = heads(), heads()
    for wrong, says in (
        (lambda: attn.view(q, k, TOKENS[:3]), "there are 3 tokens, q has 5"),
        (lambda: attn.view([q, q], [k, k[:, :4]], TOKENS), r"there are 5 tokens, k\[1\] has 4"),
        (lambda: attn.view(q, k[:3], TOKENS), "multiple"),
        (lambda: attn.view([q, q], [k], TOKENS), "2 layers"),
        (lambda: attn.view([q, q], [k, k[:2]], TOKENS), "heads"),
        (lambda: attn.view(q[0], k[0], TOKENS), "must be .heads, tokens, width."),
        (lambda: attn.view(q, k, TOKENS, special=[5]), "special token 5"),
        (lambda: attn.view(q, k, TOKENS, words=[0, 1]), "words has entries 2, must have 5"),
        (lambda: attn.view([q, q, q], [k, k, k], TOKENS, mask=[attn.Mask()] * 2), "2 Masks, .* 3 layers"),
        (lambda: attn.view(q, k, TOKENS, mask=attn.Mask.predicate(lambda b, h, i, j: j <= i)), "predicate"),
    ):
        with pytest.raises(ValueError, match=says):
            wrong()
    with pytest.raises(attn.Error):
        attn.view(q, k, TOKENS).save("/no/such/folder/page.html")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    try:
        yield attn.load("demo", offline=True)
    finally:
        if before is None:
            del os.environ["XDG_CACHE_HOME"]
        else:
            os.environ["XDG_CACHE_HOME"] = before


def test_a_model(demo, tmp_path):
    texts = ["a cat sat", "something else entirely", "a cat sat"]
    vectors = demo.embed(texts)
    assert vectors.dtype == np.float32 and vectors.shape == (3, demo.width)
    np.testing.assert_allclose(vectors[0], vectors[2], atol=1e-6)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-4
    np.testing.assert_allclose(demo.embed(texts[0])[0], vectors[0], atol=1e-6)
    assert demo.embed([]).shape == (0, demo.width)
    tokens = demo.tokens("a cat sat")
    assert tokens[0] == "[CLS]" and tokens[-1] == "[SEP]"
    assert demo.hidden("a cat sat").shape == (len(tokens), demo.width)
    page = demo.view("a cat sat", pair="on a mat")
    assert page.tokens.count("[SEP]") == 2
    assert len(page.statistics()) == demo.layers * demo.heads
    np.testing.assert_allclose(sum(page.row(0, 0, 1)), 1, atol=1e-9)
    assert os.path.exists(page.save(tmp_path / "model.html"))
    assert str(demo.path) in repr(demo)


def test_stubs_and_marker_are_installed():
    folder = os.path.dirname(attn.__file__)
    assert os.path.exists(os.path.join(folder, "py.typed"))
    with open(os.path.join(folder, "_attn.pyi"), encoding="utf-8") as file:
        stub = file.read()
    for name in attn.__all__:
        # What is written in Python needs no stub.
        if name not in ("reference", "__version__") and not inspect.isfunction(getattr(attn, name)):
            assert name in stub, name
    compile(stub, "_attn.pyi", "exec")


def test_leaving_python_is_quiet():
    code = """
import attn
score = attn.Score(alibi=True)
mask = attn.Mask.causal() & attn.Mask.predicate(lambda b, h, q, k: k <= q + mask.pairs(0, 0))
assert mask.pairs(3, 3) == 6
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
