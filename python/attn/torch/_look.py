"""attn.torch.look: the page of what every head of a Transformers model attends to."""

import contextlib
import inspect

import torch

from .. import _attn
from . import _watch
from ._models import NAME, register
from ._structure import check_follows_interface


def look(model, tokenizer, text, output=None, title=None):
    """Runs the model on the text and returns the page of its heads, as attn.view does.

        page = attn.torch.look(model, tokenizer, "The animal did not cross.", "page.html")

    model: an encoder or a decoder of Hugging Face Transformers that follows its attention
    interface; how it is set to attend, and whether it trains, is as before afterwards. Of an
    encoder-decoder, give model.get_encoder(). output: a file to save the page to. The page holds
    queries and keys as attention reads them, masks and scores of every layer; in a notebook it
    shows itself.
    """
    register()
    check_follows_interface(model.config)
    takes = inspect.signature(model.forward).parameters
    if "decoder_input_ids" in takes:
        raise ValueError(
            f"[attn.torch] look() shows one text that looks at itself: {type(model).__name__} is "
            "an encoder-decoder, give its get_encoder()"
        )
    encoding, tokens = _encode(tokenizer, text)
    recorder = _Recorder()
    inputs = {
        name: x
        for name, x in encoding.items()
        if name in ("input_ids", "attention_mask") or name in takes  # not all take token types
    }
    with _set_to_look(model), torch.no_grad(), _watch.watching(recorder):
        model(**inputs)
    page = recorder.page(tokens, text if title is None else title)
    if output is not None:
        page.save(output)
    return page


@contextlib.contextmanager
def _set_to_look(model):
    """The model on this engine, without dropout."""
    implementation = model.config._attn_implementation
    training = [module for module in model.modules() if module.training]
    model.eval()
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(implementation)
        for module in training:
            module.training = True


class _Recorder(_watch.Watcher):
    def __init__(self):
        self.q, self.k, self.v, self.masks, self.scores = [], [], [], [], []

    def see(self, module, call, inputs, answers):
        q, k, v, bias, sinks = inputs
        if q.shape[0] != 1 or q.shape[2] != k.shape[2] or call.query_start != 0:
            raise ValueError(
                f"[attn.torch] look() shows one text that looks at itself: queries are "
                f"{list(q.shape)}, keys {list(k.shape)}, from position {call.query_start}"
            )
        # Copies: what a cache holds may grow or be moved.
        for kept, x in ((self.q, q), (self.k, k), (self.v, v)):
            kept.append(x[0].detach().float().contiguous().clone())
        self.masks.append(call.mask)
        self.scores.append(call.options(bias, sinks, torch.float32)["score"])

    def page(self, tokens, title):
        if not self.q:
            raise ValueError(
                "[attn.torch] look() saw no attention: does the model follow Transformers' "
                "attention interface?"
            )
        return _attn.view(
            self.q, self.k, v=self.v, mask=self.masks, score=self.scores, title=title, **tokens
        )


def _encode(tokenizer, text):
    """(what the model takes, the tokens as attn.view takes them)."""
    fast = getattr(tokenizer, "is_fast", False)  # knows where its tokens are in the text
    options = {"return_offsets_mapping": True} if fast else {}
    encoding = tokenizer(text, return_tensors="pt", **options)
    ids = encoding["input_ids"][0].tolist()
    if not ids:
        raise ValueError("[attn.torch] the text has no tokens")
    pieces = [""] * len(ids)
    tokens = {}
    if fast:
        pieces = [text[slice(*place)] for place in encoding.pop("offset_mapping")[0].tolist()]
        tokens["words"] = [-1 if word is None else word for word in encoding.word_ids(0)]
    known = set(tokenizer.all_special_ids)
    tokens["special"] = [i for i, token in enumerate(ids) if token in known]
    tokens["tokens"] = [
        _readable(tokenizer, token, piece, token in known) for token, piece in zip(ids, pieces)
    ]
    return encoding, tokens


def _readable(tokenizer, token, piece, special):
    """A token as a person would read it; `piece`: what it stands for in the text, if known."""
    name = tokenizer.convert_ids_to_tokens(token)
    if special or name.startswith("##"):
        return name
    piece = piece or tokenizer.convert_tokens_to_string([name])
    return piece.strip() or (repr(piece)[1:-1] if piece else name)
