"""Language models from Python: a small folder with weights by formula, and SmolLM2 where it is."""

import json
from pathlib import Path

import attn
import numpy as np
import pytest
from random_weights import write_weights

DATA = Path(__file__).parent.parent / "data"
CONFIG = {
    "model_type": "llama",
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "vocab_size": 1000,
    "hidden_act": "silu",
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "eos_token_id": 0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama")
    layer = "model.layers.0."
    shapes = {
        "model.embed_tokens.weight": (1000, 48),
        "model.norm.weight": (48,),
        layer + "input_layernorm.weight": (48,),
        layer + "post_attention_layernorm.weight": (48,),
        layer + "self_attn.q_proj.weight": (48, 48),
        layer + "self_attn.k_proj.weight": (16, 48),
        layer + "self_attn.v_proj.weight": (16, 48),
        layer + "self_attn.o_proj.weight": (48, 48),
        layer + "mlp.gate_proj.weight": (64, 48),
        layer + "mlp.up_proj.weight": (64, 48),
        layer + "mlp.down_proj.weight": (48, 64),
    }
    write_weights(path, shapes)
    (path / "config.json").write_text(json.dumps(CONFIG))
    (path / "tokenizer.json").write_bytes((DATA / "tokenizers/gpt2.json").read_bytes())
    return path


@pytest.fixture(scope="module")
def model(folder):
    return attn.load(folder, threads=1)


def test_says_what_it_is(model, folder):
    assert isinstance(model, attn.LanguageModel)
    assert (model.family, model.layers, model.heads, model.kv_heads) == ("llama", 1, 3, 1)
    assert (model.width, model.vocabulary, model.max_length) == (48, 1000, 64)
    assert model.path == str(folder)
    assert repr(model).startswith("LanguageModel(llama, 1 layers, 3 heads")
    assert isinstance(attn.load("demo"), attn.Model)


def test_text_to_tokens_and_back(model):
    text = "The king's night — is dark.\n"
    ids = model.encode(text)
    assert model.decode(ids) == text
    pieces = model.tokens(text)
    assert len(pieces) == len(ids) and pieces == model.tokens(ids)
    assert model.encode("") == []
    # A part of a character is no text.
    assert model.decode(model.encode("—")[:1]) == "\ufffd"


def test_greedy_text_follows_the_logits(model):
    ids = model.encode("The king")
    parts = []
    got = model.generate("The king", max_tokens=8, on_text=parts.append)
    assert got.text == "".join(parts) == model.decode(got.ids)
    assert got.prompt_tokens == len(ids) and got.end in ("max tokens", "end token")
    for token in got.ids:
        logits = model.logits(ids)
        assert logits.shape == (len(ids), 1000) and logits.dtype == np.float32
        assert logits[-1].argmax() == token
        ids.append(token)
    assert model.generate(model.encode("The king"), max_tokens=8).ids == got.ids


def test_settings(model):
    def ids(**settings):
        return model.generate("The king", max_tokens=8, **settings).ids

    assert ids(temperature=1.0, seed=3) == ids(temperature=1.0, seed=3)
    assert ids(temperature=5.0, seed=3) != ids(temperature=5.0, seed=4)
    assert ids(temperature=1.0, top_k=1) == ids()
    assert len(ids(kv_cache="int8")) == len(ids(kv_cache="bfloat16"))
    text = model.generate("The king", max_tokens=8).text
    stopped = model.generate("The king", max_tokens=8, stop=[text[2:5]])
    assert stopped.end == "stop text" and text[2:5] not in stopped.text


def test_mistakes_say_what_is_wrong(model, folder):
    with pytest.raises(ValueError, match="top_p is 2"):
        model.generate("x", max_tokens=4, top_p=2.0)
    with pytest.raises(ValueError, match="more than the model's 64 positions"):
        model.generate("x", max_tokens=64)
    with pytest.raises(ValueError, match="no tokens"):
        model.generate("")
    with pytest.raises(ValueError, match="im_start"):
        model.generate("x", max_tokens=4, chat=True)
    with pytest.raises(ValueError, match="system needs chat"):
        model.generate("x", system="be kind")
    with pytest.raises(ValueError, match="kv_cache is 'int4'"):
        model.generate("x", max_tokens=4, kv_cache="int4")
    with pytest.raises(ValueError, match="outside"):
        model.logits([1000])
    with pytest.raises(TypeError, match="a text, or a list of token ids"):
        model.logits(1.5)
    with pytest.raises(attn.Error, match="config.json"):
        attn.load(folder / "model.safetensors")


def test_generates_several_prompts_side_by_side(model):
    prompts = ["The king", model.encode("The night is"), "x"]
    parts = {}
    got = model.generate_batch(prompts, max_tokens=6,
                               on_text=lambda i, text: parts.setdefault(i, []).append(text))
    assert [g.ids for g in got] == [model.generate(p, max_tokens=6).ids for p in prompts]
    assert ["".join(parts[i]) for i in range(3)] == [g.text for g in got]
    assert [g.prompt_tokens for g in got] == [len(model.encode(p)) if isinstance(p, str) else len(p)
                                              for p in prompts]
    in_turn = model.generate_batch(prompts, max_tokens=6, side_by_side=1)
    assert [g.ids for g in in_turn] == [g.ids for g in got]
    drawn = model.generate_batch(["The king", "x"], max_tokens=6, temperature=1.0, seed=3)
    assert drawn[0].ids == model.generate_batch(["The king"], max_tokens=6, temperature=1.0, seed=3)[0].ids
    assert model.generate_batch([], max_tokens=6) == []
    with pytest.raises(ValueError):
        model.generate_batch(["The king", ""], max_tokens=6)
    with pytest.raises(TypeError):
        model.generate_batch("The king", max_tokens=6)


def test_tells_where_heads_looked_as_it_generated(model):
    plain = model.generate("The king is", max_tokens=5)
    assert plain.attention is None
    got = model.generate("The king is", max_tokens=5, top_keys=3)
    assert got.ids == plain.ids
    seen, prompt = got.attention, model.encode("The king is")
    assert seen.entropy.shape == seen.sink.shape == (5, 1, 3)
    assert seen.top_keys.shape == seen.top_weights.shape == (5, 1, 3, 3)
    # The same as in one run over the whole text: token i was chosen at the query before it.
    whole = model.observe(prompt + got.ids, entropy=True, top_k=3, rows=[len(prompt) - 1])
    last = len(prompt) - 1
    np.testing.assert_array_equal(seen.top_keys, whole.top_keys[:, :, last:last + 5].transpose(2, 0, 1, 3))
    np.testing.assert_allclose(seen.top_weights, whole.top_weights[:, :, last:last + 5].transpose(2, 0, 1, 3),
                               atol=1e-5)
    np.testing.assert_allclose(seen.entropy, whole.entropy[:, :, last:last + 5].transpose(2, 0, 1), atol=1e-5)
    np.testing.assert_allclose(seen.sink[0], whole.rows[:, :, 0, 0], atol=1e-5)
    with pytest.raises(ValueError, match="top_keys does not go with a window"):
        model.generate("The king is", max_tokens=5, top_keys=3, window=4, sinks=1)


def test_the_page(model, tmp_path):
    text = "The king's night \u2014 is dark."
    ids = model.encode(text)
    page = attn.look(model, text)
    assert isinstance(page, attn.Page) and page._repr_html_().startswith("<iframe")
    assert "".join(page.tokens) == text and len(page.tokens) == len(ids)
    assert len(page.statistics()) == model.layers * model.heads
    for query in range(len(ids)):  # causal
        row = page.row(0, 2, query)
        np.testing.assert_allclose(sum(row[: query + 1]), 1, atol=1e-9)
        assert not any(row[query + 1 :])
    assert page.html() == model.view(ids).html()
    cut = attn.look(model, text, max_length=3, layers=[0], title="a title")
    assert len(cut.tokens) == 3 and "a title" in cut.html()
    written = model.generate(ids, max_tokens=4).ids
    page = model.view(ids + written, generated=len(ids))
    marks = "[" + "0," * len(ids) + ",".join("1" * len(written)) + "]"
    assert f'"generated":{marks}' in page.html()
    with pytest.raises(ValueError, match="layer 1 is not in 0 ... 0"):
        attn.look(model, text, layers=[1])
    with pytest.raises(ValueError, match="no tokens"):
        attn.look(model, "")
    demo = attn.look(attn.load("demo"), "a cat sat", layers=[1])
    assert {s.layer for s in demo.statistics()} == {1}


def test_score(model, folder):
    ids = [(37 * i + 3 * i * i) % 1000 for i in range(60)]
    whole = model.score(ids)
    logits = model.logits(ids)[:-1].astype(np.float64)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(59), ids[1:]]
    np.testing.assert_allclose(whole.losses, losses, atol=1e-4)
    assert whole.top == logits.argmax(1).tolist()
    np.testing.assert_allclose(whole.mean_loss, losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(whole.perplexity, np.exp(losses.mean()), rtol=1e-4)
    assert repr(whole).endswith("59 tokens)")
    one = model.score(ids, ablate=[(0, 1)])
    assert one.mean_loss != whole.mean_loss
    assert model.score(ids, ablate=[(0, 1)], ablate_with="mean").mean_loss != one.mean_loss
    stream = model.score(ids, window=64, sinks=2, step=5)
    np.testing.assert_allclose(stream.losses, whole.losses, atol=1e-4)
    assert len(model.score(ids * 3, window=16, step=4).losses) == 179
    with pytest.raises(ValueError, match="64 positions"):
        model.score(ids, window=65)
    with pytest.raises(ValueError, match="no head 1.0"):
        model.score(ids, ablate=[(1, 0)], ablate_with="mean")
    with pytest.raises(ValueError, match="must be zero or mean"):
        model.score(ids, ablate_with="noise")
    with pytest.raises(ValueError, match="two or more"):
        model.score([1])
    longer = attn.load(folder, threads=1, rope_scaling="yarn:2")
    assert longer.max_length == 128
    assert len(longer.score(ids * 2, window=120).losses) == 119
    with pytest.raises(ValueError, match="longrope"):
        attn.load(folder, rope_scaling="longrope:2")
    with pytest.raises(ValueError, match="for language models"):
        attn.load("demo", rope_scaling="yarn:2")


def test_generation_past_the_context(model):
    assert len(model.generate([5] * 100, max_tokens=80, window=16, sinks=2).ids) > 0
    with pytest.raises(ValueError, match="64 positions"):
        model.generate([5] * 100, max_tokens=8)


def test_what_on_text_raises_ends_it(model):
    def stop(_):
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        model.generate("The king", max_tokens=8, on_text=stop)
    assert model.generate("The king", max_tokens=2).prompt_tokens > 0


def test_smollm2():
    try:
        model = attn.load("smollm2", offline=True)
    except attn.Error as error:
        pytest.skip(f"SmolLM2 is not in the cache: {error}")
    assert model.kv_heads == 3 and model.max_length == 8192
    assert "Paris" in model.generate("The capital of France is", max_tokens=4).text
    chat = model.generate("What is the capital of France?", chat=True, max_tokens=30)
    assert "Paris" in chat.text and chat.end == "end token"


def test_hidden_states_and_embeddings(model):
    ids = model.encode("The king is dark.")
    hidden = model.hidden(ids)
    assert hidden.shape == (len(ids), 48) and hidden.dtype == np.float32
    np.testing.assert_array_equal(model.hidden("The king is dark."), hidden)
    vectors = model.embed(["The night", "The king is dark."])
    mean = hidden.astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(vectors[1], mean / np.linalg.norm(mean), atol=1e-6)
    assert model.embed([]).shape == (0, 48)
    with pytest.raises(ValueError, match="no tokens"):
        model.embed([""])


def test_heads_answer_questions(model):
    text = "The king is not here, and the night is dark."
    n = len(model.encode(text))
    seen = model.observe(text, entropy=True, top_k=2, column_mass=True, rows=range(n))
    assert seen.names == ["entropy", "column_mass", "top_keys", "top_weights", "rows"]
    assert seen.entropy.shape == (1, 3, n) and seen.rows.shape == (1, 3, n, n)
    assert seen.top_keys.shape == seen.top_weights.shape == (1, 3, n, 2)
    p = seen.rows.astype(np.float64)
    np.testing.assert_allclose(p.sum(-1), 1, atol=1e-5)
    assert np.all(np.triu(p[0, 0], 1) == 0)
    np.testing.assert_allclose(seen.column_mass, p.sum(2), atol=1e-5)
    entropy = -np.sum(p * np.log(np.maximum(p, 1e-300)), -1)
    np.testing.assert_allclose(seen.entropy, entropy, atol=1e-5)
    np.testing.assert_array_equal(seen.top_keys[0, :, -1, 0], p[0, :, -1].argmax(-1))
    with pytest.raises(TypeError):
        model.observe(text, beauty=True)
    with pytest.raises(ValueError, match="rows"):
        model.observe(text, rows=[n])


def test_encoders_answer_too():
    model = attn.load("demo")
    text = "the cat sat on the mat"
    tokens = model.tokens(text)
    seen = model.observe(text, rows=[0], offsets=[1])
    assert seen.rows.shape == (model.layers, model.heads, 1, len(tokens))
    assert seen.offsets.shape == (model.layers, model.heads, 1)
    page = model.view(text)
    np.testing.assert_allclose(seen.rows[1, 2, 0], page.row(1, 2, 0), atol=1e-5)
    assert model.observe(text, "the dog", entropy=True).entropy.shape[2] > len(tokens)
