"""attn.torch.observe against the matrices that eager attention returns."""

import threading

import attn
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
transformers = pytest.importorskip("transformers", reason="Transformers is not installed")

from test_torch_models import DECODERS, SIZES, make, padding, quiet, tokens  # noqa: E402
from test_torch_training import t5  # noqa: E402

assert quiet  # a fixture of every test here


def attentions(model, key="attentions", **inputs):
    """What eager attention returns."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        return getattr(model(**inputs, output_attentions=True), key)


def observe(model, inputs, **questions):
    model.set_attn_implementation("attn")
    with torch.no_grad(), attn.torch.observe(**questions) as seen:
        model(**inputs)
    return seen


def check_layer(layer, matrix, real=None):
    """Entropy, top keys and column mass, at the queries that are real."""
    p = matrix.double()
    batch, heads, q_len, k_len = p.shape
    rows = torch.ones(batch, q_len) if real is None else real
    rows = rows.bool()[:, None].expand(batch, heads, q_len)
    entropy = -(p * p.clamp(min=1e-300).log()).sum(-1)
    assert layer.entropy.shape == (batch, heads, q_len)
    torch.testing.assert_close(layer.entropy[rows].double(), entropy[rows], atol=2e-5, rtol=0)
    weights, keys = p.sort(dim=-1, descending=True, stable=True)
    best = layer.top_weights[rows].double()
    torch.testing.assert_close(best, weights[..., :3][rows], atol=1e-5, rtol=0)
    # Where eager's own weights differ by more than rounding, the keys are the same.
    clear = rows[..., None] & (weights[..., :3] - weights[..., 1:4] > 1e-5)
    clear[..., 1:] &= clear[..., :-1]
    assert clear.any() and torch.equal(layer.top_keys[clear].long(), keys[..., :3][clear])
    if rows.all():  # a query that is padding may see nothing here, and everything in eager
        torch.testing.assert_close(layer.column_mass, p.sum(2), atol=1e-4, rtol=0)


QUESTIONS = {"entropy": True, "top_k": 3, "column_mass": True}


@pytest.mark.parametrize("side", [None, "right", "left"])
@pytest.mark.parametrize("name", DECODERS)
def test_decoder(name, side):
    model = make(name, DECODERS[name]())
    mask = padding(side)
    inputs = {"input_ids": tokens(), "attention_mask": mask}
    seen = observe(model, inputs, **QUESTIONS)
    matrices = attentions(model, **inputs)
    assert len(seen) == len(seen.layers) == len(matrices) == 2
    for i, matrix in enumerate(matrices):
        assert seen[i].index == i and seen[i].kind == "self"
        if name != "GptOssForCausalLM":  # whose sink is one more entry, and not in the matrix
            check_layer(seen[i], matrix, mask)
        else:
            rows = torch.ones(3, 21) if mask is None else mask
            best = matrix.double().max(-1).values
            rows = rows.bool()[:, None].expand_as(best)
            torch.testing.assert_close(
                seen[i].top_weights[..., 0][rows].double(), best[rows], atol=1e-5, rtol=0
            )


@pytest.mark.parametrize("side", [None, "right"])
def test_encoder(side):
    model = make("BertModel", transformers.BertConfig(**SIZES))
    mask = padding(side)
    inputs = {"input_ids": tokens(), "attention_mask": mask}
    seen = observe(model, inputs, **QUESTIONS)
    for i, matrix in enumerate(attentions(model, **inputs)):
        check_layer(seen.encoder[i], matrix, mask)
        assert seen[i] is seen.encoder[i] is seen[f"encoder.layer.{i}.attention.self"]
    assert seen[-1].index == 1 and len(seen.decoder) == 0


def test_encoder_decoder():
    model = make("T5ForConditionalGeneration", t5())
    ids = tokens()
    inputs = {"input_ids": ids, "decoder_input_ids": ids[:, :9]}
    seen = observe(model, inputs, **QUESTIONS)
    assert len(seen) == 6
    for part, key in (
        (seen.encoder, "encoder_attentions"),
        (seen.decoder, "decoder_attentions"),
        (seen.cross, "cross_attentions"),
    ):
        assert [layer.index for layer in part] == [0, 1]
        for layer, matrix in zip(part, attentions(model, key, **inputs)):
            check_layer(layer, matrix)
    with pytest.raises(LookupError, match=r"encoder\[1\], decoder\[1\] or cross\[1\]"):
        seen[1]
    assert "EncDecAttention" in seen.cross[1].name


def test_every_question_and_its_names():
    model = make("LlamaForCausalLM", DECODERS["LlamaForCausalLM"]())
    inputs = {"input_ids": tokens()}
    seen = observe(
        model,
        inputs,
        lse=True,
        max_logit=True,
        relative_entropy=True,
        value_weighted=True,
        rows=[20],
        offsets=[1],
        distances=(1, 4, 4),
        key_sets=[[0]],
        picture=(7, 7),
    )
    for i, matrix in enumerate(attentions(model, **inputs)):
        torch.testing.assert_close(seen[i].rows[:, :, 0], matrix[:, :, 20], atol=1e-5, rtol=0)
        torch.testing.assert_close(seen[i].key_sets[..., 0], matrix[..., 0], atol=1e-5, rtol=0)
        previous = matrix.double().diagonal(-1, 2, 3).sum(-1)
        torch.testing.assert_close(seen[i].offsets[..., 0], previous, atol=1e-4, rtol=0)
        pooled = matrix.view(3, 4, 7, 3, 7, 3).amax((3, 5))
        torch.testing.assert_close(seen[i].picture_largest, pooled, atol=1e-5, rtol=0)
    text = repr(seen)
    assert text.startswith("Seen(2 layers)") and "model.layers.1.self_attn" in text
    assert "max_logit [3, 4, 21]" in text
    assert "value_weighted" in dir(seen[0])
    with pytest.raises(AttributeError, match="column_mass was not asked"):
        seen[0].column_mass
    with pytest.raises(AttributeError, match="frobnicate"):
        seen[0].frobnicate
    with pytest.raises(IndexError, match="no layer 2 was seen, but model.layers.0.self_attn"):
        seen[2]


def test_nothing_seen_says_why():
    model = make("MistralForCausalLM", DECODERS["MistralForCausalLM"]())
    with attn.torch.observe(entropy=True) as seen:
        model(tokens())
    with pytest.raises(IndexError, match='is the model set to attn_implementation="attn"'):
        seen[0]


def test_the_model_computes_the_same():
    model = make("MistralForCausalLM", DECODERS["MistralForCausalLM"]())
    model.set_attn_implementation("attn")
    ids = tokens()
    plain = model(ids, labels=ids)
    plain.loss.backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with attn.torch.observe(**QUESTIONS) as seen:
        watched = model(ids, labels=ids)
    watched.loss.backward()
    assert torch.equal(plain.logits, watched.logits)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients))
    assert not seen[0].entropy.requires_grad
    with torch.no_grad():
        model(ids)
    assert len(seen[0].calls) == 1  # nothing is seen afterwards


def test_generation_keeps_every_step():
    model = make("LlamaForCausalLM", DECODERS["LlamaForCausalLM"]())
    model.set_attn_implementation("attn")
    ids = tokens()
    with attn.torch.observe(entropy=True) as seen:
        done = model.generate(
            ids, max_new_tokens=4, do_sample=False, pad_token_id=0, eos_token_id=None
        )
    assert [a.entropy.shape for a in seen[1].calls] == [(3, 4, 21), *[(3, 4, 1)] * 3]
    with pytest.raises(AttributeError, match=r"called 4 times: ask calls\[i\].entropy"):
        seen[1].entropy
    whole = observe(model, {"input_ids": done[:, :-1]}, entropy=True)
    steps = torch.cat([a.entropy for a in seen[1].calls], 2)
    torch.testing.assert_close(steps, whole[1].entropy, atol=1e-5, rtol=0)


def test_calls_of_scaled_dot_product_attention():
    q, k, v = (torch.randn(2, 4, 9, 8) for _ in range(3))
    with attn.torch.observe(column_mass=True, lse=True) as seen:
        attn.torch.scaled_dot_product_attention(q, k, v, is_causal=True)
        attn.torch.scaled_dot_product_attention(q, k, v)
    causal = (q @ k.mT / 8**0.5).masked_fill(torch.ones(9, 9).triu(1) > 0, -torch.inf)
    torch.testing.assert_close(seen[0].lse, causal.logsumexp(-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        seen[1].column_mass.float(), (q @ k.mT / 8**0.5).softmax(-1).sum(2), atol=1e-5, rtol=0
    )
    assert [layer.kind for layer in seen] == ["call", "call"]


def test_contexts_nest_and_threads_are_apart():
    q, k, v = (torch.randn(2, 4, 9, 8) for _ in range(3))
    run = lambda: attn.torch.scaled_dot_product_attention(q, k, v)  # noqa: E731
    with attn.torch.observe(entropy=True) as outer:
        run()
        with attn.torch.observe(top_k=2) as inner:
            run()
        other = threading.Thread(target=run)
        other.start()
        other.join()
    assert len(outer) == 2 and len(inner) == 1
    assert inner[0].calls[0].names == ["top_keys", "top_weights"]
    assert torch.equal(outer[0].entropy, outer[1].entropy)


def test_an_error_inside_ends_it():
    with pytest.raises(KeyError), attn.torch.observe(entropy=True) as seen:
        raise KeyError
    q = torch.randn(1, 1, 3, 4)
    attn.torch.scaled_dot_product_attention(q, q, q)
    assert len(seen) == 0


def test_long_sequences_need_no_matrix():
    """4 heads of 16,384 tokens: the matrix would have 4 GiB."""
    import resource

    q = torch.randn(1, 4, 1 << 14, 8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with attn.torch.observe(entropy=True, top_k=2, column_mass=True) as seen:
        mask = torch.ones(1, dtype=torch.bool).expand(1, 1, 1, 1 << 14)
        attn.torch.scaled_dot_product_attention(q, q, q, attn_mask=mask)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 128 * 1024
    mass = seen[0].column_mass.sum(-1)
    torch.testing.assert_close(mass, torch.full_like(mass, 2.0**14), rtol=1e-5, atol=0)


def test_mistakes():
    with pytest.raises(TypeError, match="relative_entropy"):
        attn.torch.observe(entropi=True)
    with pytest.raises(ValueError, match="asks nothing"):
        attn.torch.observe()
