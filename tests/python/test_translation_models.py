"""Translation models from Python: aren, where the assets are."""

from pathlib import Path

import attn
import numpy as np
import pytest

AREN = Path(__file__).parents[3] / "shared/assets/aren"
SOURCE = "آ ت ز م و ن"

pytestmark = pytest.mark.skipif(not AREN.is_dir(), reason=f"no {AREN}")


@pytest.fixture(scope="module")
def model():
    return attn.load(AREN, threads=1)


def test_says_what_it_is(model):
    assert isinstance(model, attn.TranslationModel)
    assert (model.family, model.layers, model.heads, model.vocabulary) == ("ctranslate2", 6, 8, 43)
    assert model.path == str(AREN)
    assert repr(model).startswith("TranslationModel(ctranslate2, 6 layers, 8 heads")


@pytest.mark.parametrize("beams", [None, 1, 4])
def test_translates(model, beams):
    got = model.translate(SOURCE, beams=beams)
    assert (got.text, got.tokens, got.ended) == ("a t z m o n", list("atzmon"), True)
    assert got.score == pytest.approx(got.log_probability / 7)
    assert model.decode(got.ids) == got.text
    assert repr(got) == "Translation(6 tokens)"


def test_takes_ids_and_options(model):
    ids = model.encode(SOURCE)
    assert model.tokens(ids) == SOURCE.split()
    assert model.translate(ids, max_tokens=2).tokens == ["a", "t"]
    assert model.translate(SOURCE, length_penalty=0).score == pytest.approx(
        model.translate(SOURCE, length_penalty=0).log_probability)


def test_refuses(model):
    with pytest.raises(ValueError, match="the source has no tokens"):
        model.translate("")
    with pytest.raises(ValueError, match="0 beams"):
        model.translate(SOURCE, beams=0)
    with pytest.raises(TypeError, match="give a text"):
        model.translate(3.5)


def test_targets_are_ids(model):
    assert model.encode_target("a t z m o n") == model.translate(SOURCE).ids
    assert model.encode_target("") == []


def test_look(model, tmp_path):
    page = attn.look(model, SOURCE)
    assert page.tokens == ["<s>", " a", " t", " z", " m", " o", " n"]
    assert page.keys == [" " + letter for letter in SOURCE.split()]
    html = page.html()
    assert all(f'"name":"{name}"' in html for name in ("Encoder", "Decoder", "Cross"))
    assert '"generated":[0,1,1,1,1,1,1]' in html
    assert page.save(tmp_path / "page.html") == str(tmp_path / "page.html")
    assert "<iframe" in page._repr_html_()

    cross, decoder = page.statistics("cross"), page.statistics(part="decoder")
    assert len(cross) == len(decoder) == len(page.statistics("encoder")) == 6 * 8
    assert np.isnan(cross[0].previous) and np.isnan(cross[0].distance)
    assert 0 <= decoder[0].previous <= 1
    row = page.row(5, 6, 2, "cross")
    assert len(row) == 6 and sum(row) == pytest.approx(1)
    assert len(page.row(5, 6, 2, part="decoder")) == 7
    assert page.findings(2, "cross") != page.findings(2, "encoder")
    with pytest.raises(ValueError, match="part is not given, must be encoder, decoder or cross"):
        page.statistics()
    with pytest.raises(ValueError, match="part is 'x'"):
        page.row(0, 0, 0, "x")


def test_looks_at_a_given_target(model):
    for target in ("a t s", model.encode_target("a t s")):
        page = attn.look(model, SOURCE, target=target, layers=[5, 0])
        assert page.tokens == ["<s>", " a", " t", " s"]
        assert [s.layer for s in page.statistics("cross")[::8]] == [0, 5]
        assert '"generated":[0,0,0,0]' in page.html()
    with pytest.raises(ValueError, match="layer 6"):
        model.view(SOURCE, layers=[6])


def test_observe(model):
    target = model.encode_target("a t z m")
    seen = model.observe(SOURCE, target, entropy=True, top_k=2, rows=[4], column_mass=True)
    assert (seen.source, seen.target) == (model.encode(SOURCE), target)
    assert seen.encoder.entropy.shape == (6, 8, 6)
    assert seen.decoder.entropy.shape == seen.cross.entropy.shape == (6, 8, 5)
    assert seen.cross.top_keys.shape == (6, 8, 5, 2)
    assert seen.cross.column_mass.shape == (6, 8, 6)
    np.testing.assert_allclose(seen.cross.column_mass.sum(-1), 5, rtol=1e-6)
    page = attn.look(model, SOURCE, target=target)
    for part in ("encoder", "decoder", "cross"):
        answers = getattr(seen, part)
        np.testing.assert_allclose(answers.rows[3, 2, 0], page.row(3, 2, 4, part), atol=1e-6)
        means = [s.entropy for s in page.statistics(part)]
        np.testing.assert_allclose(answers.entropy.mean(-1).ravel(), means, atol=1e-5)
    assert model.observe(SOURCE, max_probability=True).target == model.translate(SOURCE).ids
    with pytest.raises(TypeError):
        model.observe(SOURCE, wisdom=True)
