"""Models with a state from Python: small Mamba and RWKV folders with random weights."""

import json
from pathlib import Path

import attn
import numpy as np
import pytest
from random_weights import write_weights

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture(scope="module", params=["mamba", "rwkv"])
def model(request, tmp_path_factory):
    """Settings and shapes of the golden models."""
    path = tmp_path_factory.mktemp(request.param)
    given = json.loads((DATA / "recurrent.json").read_text())["cases"][request.param]
    write_weights(path, given["tensors"])
    (path / "config.json").write_text(json.dumps(given["config"]))
    tokenizer = json.loads((DATA / "tokenizers/gpt2.json").read_text())
    tokenizer["model"]["vocab"] = {chr(97 + i) if i < 26 else f"t{i}": i for i in range(101)}
    tokenizer["model"]["merges"] = []
    tokenizer["added_tokens"] = []
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    return attn.load(path, threads=1)


TEXT = "thecatsatonthemat"


def test_generates_and_scores(model):
    assert isinstance(model, attn.LanguageModel)
    ids = model.encode(TEXT)
    assert len(ids) == len(TEXT)
    got = model.generate(ids, max_tokens=5)
    whole = list(ids)
    for token in got.ids:
        assert model.logits(whole)[-1].argmax() == token
        whole.append(token)
    logits = model.logits(ids)[:-1].astype(np.float64)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(ids) - 1), ids[1:]]
    np.testing.assert_allclose(model.score(ids).losses, losses, atol=1e-4)
    both = model.generate_batch([ids, [1, 2]], max_tokens=5)
    assert both[0].ids == got.ids


def test_is_looked_into(model):
    page = attn.look(model, TEXT)
    n = len(page.tokens)
    assert '"implied":true' in page.html()
    seen = model.observe(TEXT, entropy=True, rows=range(n))
    assert seen.rows.shape == (model.layers, model.heads, n, n)
    p = seen.rows.astype(np.float64)
    np.testing.assert_allclose(p.sum(-1), 1, atol=1e-5)
    assert (np.triu(p[0, 0], 1) == 0).all()
    for query in range(n):
        np.testing.assert_allclose(page.row(1, 0, query), p[1, 0, query], atol=1e-5)
    entropy = -np.sum(p * np.log(np.maximum(p, 1e-300)), -1)
    np.testing.assert_allclose(seen.entropy, entropy, atol=1e-5)


def test_what_it_has_not(model):
    with pytest.raises(ValueError, match="a model with a state keeps no keys"):
        model.generate(TEXT, max_tokens=2, window=4, sinks=1)
    with pytest.raises(ValueError, match="no sinks, no ablation"):
        model.score(TEXT, ablate=[(0, 0)])
