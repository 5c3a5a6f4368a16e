"""attn.torch.look: a page from a Transformers model and a text."""

import attn
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
transformers = pytest.importorskip("transformers", reason="Transformers is not installed")

from test_torch_models import DECODERS, SIZES, make, quiet  # noqa: E402
from test_torch_training import t5  # noqa: E402

assert quiet  # a fixture of every test here

TEXT = "The animal did not cross; it was tired."
WORDS = "the animal did not cross ; it was tired .".split()


def word_pieces():
    """As BERT's: lower case, pieces, special tokens around."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = ["[UNK]", "[CLS]", "[SEP]", *(w for w in WORDS if w != "animal"), "ani", "##mal"]
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def bytes_of(text):
    """As GPT-2's: bytes, which show as "\u0120animal" and "\u00c3\u00a9" in the vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=96, special_tokens=["<s>"], show_progress=False, min_frequency=1,
    )
    tokenizer.train_from_iterator([text], trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


def weights(model, tokenizer, text=TEXT):
    """Eager's matrices, a layer each [heads, tokens, tokens]."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        encoding = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        attentions = model(**encoding, output_attentions=True).attentions
    model.set_attn_implementation(before)
    return [matrix[0].double() for matrix in attentions]


def check_rows(page, matrices, tokens):
    assert len(page.statistics()) == len(matrices) * 4
    for layer, matrix in enumerate(matrices):
        for head in range(4):
            for query in (0, tokens // 2, tokens - 1):
                row = torch.tensor(page.row(layer, head, query), dtype=torch.float64)
                torch.testing.assert_close(row, matrix[head, query], atol=2e-6, rtol=0)


def test_an_encoder(tmp_path):
    model = make("BertModel", transformers.BertConfig(**SIZES))
    path = tmp_path / "page.html"
    page = attn.torch.look(model, word_pieces(), TEXT, path)
    assert isinstance(page, attn.Page) and page._repr_html_().startswith("<iframe")
    assert page.tokens[:4] == ["[CLS]", "The", "ani", "##mal"] and page.tokens[-1] == "[SEP]"
    html = path.read_text(encoding="utf-8")
    assert html == page.html() and TEXT in html
    for token in page.tokens:
        assert f'"{token}"' in html
    check_rows(page, weights(model, word_pieces()), len(page.tokens))
    # Special tokens are known as such: the mass on them is counted.
    special = [0, len(page.tokens) - 1]
    matrix = weights(model, word_pieces())[1][2]
    assert abs(page.statistics()[6].special - matrix[:, special].sum(1).mean()) < 1e-4


@pytest.mark.parametrize(
    "name", ["GPT2LMHeadModel", "LlamaForCausalLM", "MistralForCausalLM", "Gemma2ForCausalLM"]
)
def test_a_decoder(name):
    text = "The caf\u00e9 did not\ncross; it was tired."
    tokenizer = bytes_of(text)
    model = make(name, DECODERS[name]())
    page = attn.torch.look(model, tokenizer, text, title="a title")
    ids = tokenizer(text)["input_ids"]
    assert len(page.tokens) == len(ids) > 9  # beyond Mistral's window of 7
    assert "\u0120" not in "".join(page.tokens) and "\\n" in page.tokens
    assert "".join(page.tokens).replace("\\n", "").replace("\ufffd", "").startswith("Thecaf")
    assert "a title" in page.html()
    check_rows(page, weights(model, tokenizer, text), len(ids))


def test_sinks_and_a_learned_bias():
    """The page holds them: rows are what the model's attention computes."""
    model = make("GptOssForCausalLM", DECODERS["GptOssForCausalLM"]())
    tokenizer = bytes_of(TEXT)
    page = attn.torch.look(model, tokenizer, TEXT)
    check_rows(page, weights(model, tokenizer), len(page.tokens))

    encoder = make("T5ForConditionalGeneration", t5()).get_encoder()
    page = attn.torch.look(encoder, tokenizer, TEXT)
    check_rows(page, weights(encoder, tokenizer), len(page.tokens))
    assert "</html>" in page.html()


def test_a_tokenizer_that_knows_no_offsets():
    class Slow:
        """The part of a slow tokenizer that look() uses, over a fast one."""

        is_fast = False

        def __init__(self, fast):
            self.fast = fast
            self.all_special_ids = fast.all_special_ids

        def __call__(self, text, return_tensors):
            return {"input_ids": self.fast(text, return_tensors=return_tensors)["input_ids"]}

        def convert_ids_to_tokens(self, token):
            return self.fast.convert_ids_to_tokens(token)

        def convert_tokens_to_string(self, tokens):
            return self.fast.convert_tokens_to_string(tokens)

    model = make("LlamaForCausalLM", DECODERS["LlamaForCausalLM"]())
    fast = attn.torch.look(model, bytes_of(TEXT), TEXT)
    slow = attn.torch.look(model, Slow(bytes_of(TEXT)), TEXT)
    assert slow.tokens == fast.tokens
    assert slow.row(1, 2, 5) == fast.row(1, 2, 5)


def test_the_model_is_left_as_it_was():
    model = make("GPT2LMHeadModel", DECODERS["GPT2LMHeadModel"]())
    model.set_attn_implementation("eager")
    model.train()
    first = attn.torch.look(model, bytes_of(TEXT), TEXT)
    assert model.training and model.config._attn_implementation == "eager"
    second = attn.torch.look(model, bytes_of(TEXT), TEXT)
    assert first.row(1, 0, 5) == second.row(1, 0, 5)  # no dropout while looking
    model.set_attn_implementation("sdpa")
    model.transformer.h[1].attn.forward = lambda *a, **k: 1 / 0
    with pytest.raises(ZeroDivisionError):
        attn.torch.look(model, bytes_of(TEXT), TEXT)
    assert model.training and model.config._attn_implementation == "sdpa"


def test_half_precision():
    model = make("LlamaForCausalLM", DECODERS["LlamaForCausalLM"]()).bfloat16()
    page = attn.torch.look(model, bytes_of(TEXT), TEXT)
    row = torch.tensor(page.row(0, 0, 9), dtype=torch.float64)
    expected = weights(model, bytes_of(TEXT))[0][0, 9]
    torch.testing.assert_close(row, expected, atol=2e-2, rtol=0)


def test_mistakes():
    model = make("T5ForConditionalGeneration", t5())
    with pytest.raises(ValueError, match="T5ForConditional.* is an encoder-decoder.*get_encoder"):
        attn.torch.look(model, bytes_of(TEXT), TEXT)
    llama = make("LlamaForCausalLM", DECODERS["LlamaForCausalLM"]())
    with pytest.raises(ValueError, match="the text has no tokens"):
        attn.torch.look(llama, bytes_of(TEXT), "")
    config = transformers.BloomConfig(vocab_size=97, hidden_size=64, n_layer=2, n_head=4)
    with pytest.raises(ValueError, match="bloom computes attention itself"):
        attn.torch.look(transformers.BloomForCausalLM(config), bytes_of(TEXT), TEXT)
