"""Translation models from Python: aren, where the assets are."""

from pathlib import Path

import attn
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
