"""Transformers models with attn_implementation="attn" against "eager"."""

import logging

import attn
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
transformers = pytest.importorskip("transformers", reason="Transformers is not installed")

VOCABULARY = 97
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
DECODERS = {
    "GPT2LMHeadModel": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=4, n_positions=64
    ),
    "LlamaForCausalLM": lambda: transformers.LlamaConfig(**GROUPED),
    "MistralForCausalLM": lambda: transformers.MistralConfig(**GROUPED, sliding_window=7),
    "Gemma2ForCausalLM": lambda: transformers.Gemma2Config(
        **GROUPED,
        head_dim=16,
        sliding_window=7,
        attn_logit_softcapping=5.0,
        query_pre_attn_scalar=16,
    ),
    "GptOssForCausalLM": lambda: transformers.GptOssConfig(  # sinks
        **GROUPED, head_dim=16, sliding_window=7, num_local_experts=2, num_experts_per_tok=1
    ),
    "Llama4ForCausalLM": lambda: transformers.Llama4TextConfig(  # chunks
        **GROUPED,
        head_dim=16,
        intermediate_size_mlp=96,
        num_local_experts=2,
        attention_chunk_size=8,
    ),
}


@pytest.fixture(autouse=True)
def quiet():
    attn.torch.register()
    transformers.logging.set_verbosity_error()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.manual_seed(0)


def tokens(batch=3, length=21):
    return torch.randint(5, VOCABULARY, (batch, length))


def padding(side, batch=3, length=21):
    """None, or the 2-d mask of real tokens."""
    if side is None:
        return None
    mask = torch.ones(batch, length, dtype=torch.long)
    for i, hidden in enumerate([0, 6, 1]):
        if hidden:
            mask[i, slice(-hidden, None) if side == "right" else slice(0, hidden)] = 0
    return mask


def make(name, config):
    torch.manual_seed(1)
    return getattr(transformers, name)(config).eval()


def both(model, run):
    """run() with eager and with attn."""
    results = []
    for implementation in ("eager", "attn"):
        model.set_attn_implementation(implementation)
        results.append(run())
    return results


def close(a, b, mask=None):
    """Within 1e-5, at real tokens."""
    if mask is not None:
        a, b = a[mask.bool()], b[mask.bool()]
    assert not b.isnan().any()
    torch.testing.assert_close(b, a, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", [None, "right", "left"])
def test_encoder(side):
    model = make("BertModel", transformers.BertConfig(**SIZES))
    ids, mask = tokens(), padding(side)
    with torch.no_grad():
        eager, ours = both(model, lambda: model(ids, attention_mask=mask).last_hidden_state)
    close(eager, ours, mask)


@pytest.mark.parametrize("side", [None, "right", "left"])
@pytest.mark.parametrize("name", DECODERS)
def test_decoder(name, side):
    model = make(name, DECODERS[name]())
    ids, mask = tokens(), padding(side)
    with torch.no_grad():
        eager, ours = both(model, lambda: model(ids, attention_mask=mask).logits)
    close(eager, ours, mask)


def generate(model, ids, mask, **options):
    done = model.generate(
        ids,
        attention_mask=torch.ones_like(ids) if mask is None else mask,
        max_new_tokens=6,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
        return_dict_in_generate=True,
        output_logits=True,
        **options,
    )
    return done.sequences, torch.stack(done.logits)


@pytest.mark.parametrize("side", [None, "left"])
@pytest.mark.parametrize("name", DECODERS)
def test_generation_with_cache(name, side):
    model = make(name, DECODERS[name]())
    ids, mask = tokens(), padding(side)
    (eager, eager_logits), (ours, our_logits) = both(model, lambda: generate(model, ids, mask))
    close(eager_logits, our_logits)
    assert torch.equal(eager, ours)


def test_generation_with_a_static_cache():
    model = make("LlamaForCausalLM", DECODERS["LlamaForCausalLM"]())
    ids, mask = tokens(), padding("left")
    run = lambda: generate(  # noqa: E731
        model, ids, mask, cache_implementation="static", disable_compile=True
    )
    (eager, eager_logits), (ours, our_logits) = both(model, run)
    close(eager_logits, our_logits)
    assert torch.equal(eager, ours)


@pytest.mark.parametrize("side", [None, "right"])
def test_encoder_decoder(side):
    config = transformers.T5Config(
        vocab_size=VOCABULARY,
        d_model=64,
        d_kv=16,
        d_ff=96,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
    )
    model = make("T5ForConditionalGeneration", config)
    ids, mask = tokens(), padding(side)
    with torch.no_grad():
        eager, ours = both(
            model, lambda: model(ids, attention_mask=mask, decoder_input_ids=ids[:, :9]).logits
        )
    close(eager, ours)
    (eager, eager_logits), (ours, our_logits) = both(model, lambda: generate(model, ids, mask))
    close(eager_logits, our_logits)
    assert torch.equal(eager, ours)


def test_packed_sequences():
    """Positions that start again mean sequences that do not see each other."""
    model = make("MistralForCausalLM", DECODERS["MistralForCausalLM"]())
    ids = tokens(2)
    positions = torch.cat([torch.arange(n) for n in (9, 1, 11)])[None]
    with torch.no_grad():
        run = lambda: model(ids, position_ids=positions, use_cache=False).logits  # noqa: E731
        eager, ours = both(model, run)
        alone = model(ids[:, 10:], use_cache=False).logits
    close(eager, ours)
    close(alone, ours[:, 10:])


def test_a_dense_mask_is_used_as_it_is():
    model = make("LlamaForCausalLM", DECODERS["LlamaForCausalLM"]())
    ids = tokens()
    visible = (torch.rand(3, 1, 21, 21) < 0.5) | torch.eye(21, dtype=torch.bool)
    mask = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)
    with torch.no_grad():
        eager, ours = both(model, lambda: model(ids, attention_mask=mask).logits)
    close(eager, ours)


MASKS = {
    "causal": lambda m, pad: m.causal_mask_function,
    "window": lambda m, pad: m.sliding_window_causal_mask_function(5),
    "two-sided": lambda m, pad: m.bidirectional_mask_function,
    "two-sided window": lambda m, pad: m.sliding_window_bidirectional_mask_function(3),
    "chunks": lambda m, pad: m.chunked_causal_mask_function(4, torch.tensor([0, 3, 1])),
    "packed": lambda m, pad: m.and_masks(
        m.causal_mask_function,
        m.packed_sequence_mask_function(torch.arange(21).repeat(3, 1) // torch.tensor([[4], [9], [50]])),
    ),
    "either": lambda m, pad: m.or_masks(m.causal_mask_function, m.sliding_window_bidirectional_overlay(2)),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("side", [None, "right", "left"])
def test_mask_functions_become_structure(name, side):
    """... and what computes with one gets the tensor that Transformers would have made."""
    from attn.torch._structure import StructuredMask, mask_of
    from transformers import masking_utils

    real = padding(side)
    options = {
        "batch_size": 3,
        "q_length": 21,
        "kv_length": 21,
        "mask_function": MASKS[name](masking_utils, real),
        "attention_mask": None if real is None else real.bool(),
    }
    mask = mask_of(**options)
    expected = masking_utils.sdpa_mask(**options, allow_is_causal_skip=False)
    assert isinstance(mask, StructuredMask) and mask.shape == expected.shape
    assert "dense" not in str(mask.mask)
    assert torch.equal(mask & True, expected) and not isinstance(mask & True, StructuredMask)
    assert torch.equal(mask[:, :, 2:5], expected[:, :, 2:5])
    cached = {**options, "q_length": 5, "q_offset": 16}
    if name != "packed":
        assert torch.equal(
            mask_of(**cached) & True, masking_utils.sdpa_mask(**cached, allow_is_causal_skip=False)
        )


def test_an_unknown_mask_function_stays_a_tensor():
    from attn.torch._structure import StructuredMask, mask_of

    mask = mask_of(batch_size=1, q_length=9, kv_length=9, mask_function=lambda b, h, q, k: (q + k) % 2 == 0)
    assert not isinstance(mask, StructuredMask) and mask.sum() == 41


def test_a_function_that_is_not_what_its_name_says_stays_a_tensor():
    """Structure is compared with the function before it is used."""
    from attn.torch._structure import StructuredMask, mask_of
    from transformers import masking_utils

    def causal_mask_function(b, h, q, k):
        return k < q

    causal_mask_function.__module__ = masking_utils.__name__
    causal_mask_function.__qualname__ = "causal_mask_function"
    mask = mask_of(batch_size=1, q_length=9, kv_length=9, mask_function=causal_mask_function)
    assert not isinstance(mask, StructuredMask) and mask.sum() == 36


def test_long_masks_have_no_elements():
    """A mask of 2^34 pairs is made, and hides what it should, in no memory."""
    from attn.torch._structure import mask_of

    n = 1 << 17
    mask = mask_of(batch_size=1, q_length=n, kv_length=n)
    assert mask.shape == (1, 1, n, n)
    assert mask.mask.pairs(n, n) == n * (n + 1) // 2


def test_models_that_do_not_follow_the_interface_say_so():
    config = transformers.BloomConfig(vocab_size=VOCABULARY, hidden_size=64, n_layer=2, n_head=4)
    model = transformers.BloomForCausalLM._from_config(config, attn_implementation="attn")
    with pytest.raises(ValueError, match="bloom computes attention itself.*eager"):
        model(tokens())


def test_attentions_are_refused():
    model = make("LlamaForCausalLM", DECODERS["LlamaForCausalLM"]())
    model.set_attn_implementation("attn")
    with pytest.raises(ValueError, match="attn.torch.observe"), torch.no_grad():
        attn.torch._models.attention_forward(
            model, *(torch.zeros(1, 1, 1, 8) for _ in range(3)), None, output_attentions=True
        )


@pytest.mark.parametrize("side", [None, "left"])
def test_compiled(side):
    model = make("LlamaForCausalLM", DECODERS["LlamaForCausalLM"]())
    model.set_attn_implementation("attn")
    ids, mask = tokens(), padding(side)
    with torch.no_grad():
        plain = model(ids, attention_mask=mask).logits
        compiled = torch.compile(model, backend="eager")(ids, attention_mask=mask).logits
    close(plain, compiled, mask)
