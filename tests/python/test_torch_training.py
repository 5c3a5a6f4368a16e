"""Training Transformers models with attn_implementation="attn": gradients of all parameters."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
transformers = pytest.importorskip("transformers", reason="Transformers is not installed")

from test_torch_models import (  # noqa: E402
    DECODERS,
    SIZES,
    VOCABULARY,
    both,
    make,
    padding,
    quiet,
    tokens,
)

assert quiet  # a fixture of every test here


def t5():
    return transformers.T5Config(
        vocab_size=VOCABULARY,
        d_model=64,
        d_kv=16,
        d_ff=96,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        decoder_start_token_id=0,
    )


def step(model, **inputs):
    """The gradients of every parameter, and the loss, of one step."""
    model.train()
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def compare(model, **inputs):
    """Equal to those of eager, within 1e-5, and 1e-4 of each parameter's largest."""
    (eager_loss, eager), (loss, ours) = both(model, lambda: step(model, **inputs))
    torch.testing.assert_close(loss, eager_loss, atol=1e-5, rtol=1e-5)
    assert set(ours) == set(eager)
    assert sum(g.abs().max() > 1e-6 for g in ours.values()) > len(ours) / 2
    for name in eager:
        largest = eager[name].abs().max().item()
        error = (ours[name] - eager[name]).abs().max().item()
        # 1e-8: a key's bias, whose gradient is 0, has rounding alone.
        assert error <= min(1e-5, 1e-4 * largest + 1e-8), (name, error, largest)
    return eager


def labels(ids, mask):
    """Loss where a real token predicts: not at padding, nor where padding predicts a token."""
    if mask is None:
        return ids
    real = mask.bool()
    return ids.masked_fill(~(real & real.roll(1, 1)), -100)


@pytest.mark.parametrize("side", [None, "right", "left"])
def test_encoder(side):
    config = transformers.BertConfig(
        **SIZES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    ids, mask = tokens(), padding(side)
    model = make("BertForMaskedLM", config)
    compare(model, input_ids=ids, attention_mask=mask, labels=labels(ids, mask))


@pytest.mark.parametrize("side", [None, "right", "left"])
@pytest.mark.parametrize("name", DECODERS)
def test_decoder(name, side):
    config = DECODERS[name]()
    for dropout in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        if hasattr(config, dropout):
            setattr(config, dropout, 0.0)
    ids, mask = tokens(), padding(side)
    model = make(name, config)
    given = compare(model, input_ids=ids, attention_mask=mask, labels=labels(ids, mask))
    if name == "GptOssForCausalLM":
        assert all(given[f"model.layers.{i}.self_attn.sinks"].abs().max() > 1e-6 for i in range(2))


@pytest.mark.parametrize("side", [None, "right"])
def test_encoder_decoder(side):
    """... and T5's learned position bias, in both of its stacks."""
    ids, mask = tokens(), padding(side)
    model = make("T5ForConditionalGeneration", t5())
    given = compare(model, input_ids=ids, attention_mask=mask, labels=ids[:, :9].contiguous())
    for stack in ("encoder", "decoder"):
        name = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        assert given[name].abs().max() > 1e-6


def test_gradients_reach_an_additive_mask():
    model = make("LlamaForCausalLM", DECODERS["LlamaForCausalLM"]())
    ids = tokens()
    hidden = torch.ones(21, 21, dtype=torch.bool).triu(1)
    bias = torch.randn(3, 1, 21, 21)

    def run():
        leaf = bias.clone().requires_grad_()
        mask = leaf.masked_fill(hidden, torch.finfo(torch.float32).min)
        model(ids, attention_mask=mask, labels=ids).loss.backward()
        return leaf.grad

    eager, ours = both(model, run)
    assert eager.abs().max() > 1e-5
    torch.testing.assert_close(ours, eager, atol=1e-7, rtol=1e-4)


def test_gradient_checkpointing():
    model = make("T5ForConditionalGeneration", t5())
    ids = tokens()
    model.set_attn_implementation("attn")
    _, plain = step(model, input_ids=ids, labels=ids[:, :9].contiguous())
    model.activation_checkpointing_enable()
    _, again = step(model, input_ids=ids, labels=ids[:, :9].contiguous())
    for name, g in plain.items():
        torch.testing.assert_close(again[name], g, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(dtype):
    """Gradients have the parameters' type, and differ from float32's as eager's do."""
    model = make("LlamaForCausalLM", DECODERS["LlamaForCausalLM"]())
    ids, mask = tokens(), padding("right")
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": labels(ids, mask)}
    _, exact = step(model, **inputs)
    (_, eager), (_, ours) = both(model.to(dtype), lambda: step(model, **inputs))

    def distance(given):
        return sum((given[n].float() - exact[n]).square().sum() for n in exact) ** 0.5

    assert all(g.dtype == dtype and g.isfinite().all() for g in ours.values())
    assert distance(ours) <= 1.5 * distance(eager)


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "T5ForConditionalGeneration"])
def test_autocast(name):
    """torch.autocast, where queries come in float32 and values in bfloat16."""
    model = make(name, t5() if name.startswith("T5") else DECODERS[name]())
    flat = lambda given: torch.cat([g.flatten() for g in given.values()])  # noqa: E731

    def run(ids):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        return flat({n: p.grad for n, p in model.named_parameters() if p.grad is not None})

    errors = []  # of eager, of ours; means over batches, since one rounding can spread far
    for _ in range(4):
        ids = tokens()
        eager, ours = both(model, lambda: run(ids))
        exact = flat(step(model, input_ids=ids, labels=ids)[1])
        errors.append([(x - exact).norm() / exact.norm() for x in (eager, ours)])
    eager, ours = torch.tensor(errors).mean(0)
    assert ours <= 1.5 * eager <= 0.1


def test_dropout_of_attention():
    """A training model drops pairs, the same for the same seed; an evaluated one does not."""
    config = DECODERS["LlamaForCausalLM"]()
    config.attention_dropout = 0.5
    model = make("LlamaForCausalLM", config)
    model.set_attn_implementation("attn")
    ids = tokens()

    def run(seed):
        torch.manual_seed(seed)
        return step(model, input_ids=ids, labels=ids)[1]

    first, again, other = run(1), run(1), run(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(ids).logits, model(ids).logits)


def test_a_step_lowers_the_loss():
    model = make("MistralForCausalLM", DECODERS["MistralForCausalLM"]())
    ids, mask = tokens(), padding("right")

    def train():
        torch.manual_seed(2)
        fresh = make("MistralForCausalLM", model.config)
        fresh.set_attn_implementation(model.config._attn_implementation)
        optimizer = torch.optim.SGD(fresh.parameters(), lr=0.5)
        losses = []
        for _ in range(8):
            loss, _ = step(fresh, input_ids=ids, attention_mask=mask, labels=labels(ids, mask))
            optimizer.step()
            losses.append(loss.item())
        return torch.tensor(losses)

    eager, ours = both(model, train)
    assert ours[-1] < ours[0] - 0.1
    torch.testing.assert_close(ours, eager, atol=1e-4, rtol=1e-4)
