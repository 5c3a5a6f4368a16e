"""attn.torch.observe: what every attention layer of a model sees, at any length."""

import contextlib
import re

from torch.nn.modules.module import register_module_forward_pre_hook

from .. import _attn
from . import _watch


def observe(**questions):
    """Collects what attention calls see, layer by layer.

        with attn.torch.observe(entropy=True, top_k=8) as seen:
            model(ids)
        seen[3].entropy  # [batch, heads, length]

    The questions are those of attn.Questions; answers are tensors, computed tile by tile, so that
    they can be had where output_attentions=True would not fit into memory. Every call in this
    thread is seen that goes to a Transformers model with attn_implementation="attn" or to
    scaled_dot_product_attention, forward only. Contexts nest: each gets its own answers.

    Of a model with an encoder and a decoder, ask seen.encoder[3], seen.decoder[3], seen.cross[3].
    A layer that is called several times, as in generation, has its answers in seen[3].calls, one a
    call.
    """
    _attn.Questions(**questions)  # refuses what it does not know
    if not questions:
        raise ValueError("[attn.torch] observe() asks nothing: give entropy=True or another")
    return _observing(questions)


@contextlib.contextmanager
def _observing(questions):
    seen = Seen([])
    names = _Names()
    with names.learning(), _watch.watching(_Collector(questions, seen, names)):
        yield seen


class Layer:
    """What one attention layer saw; the answers of its call are attributes."""

    def __init__(self, index, name, kind):
        self.index = index  # the layer's number in the model, or the call's
        self.name = name  # the module's path in the model
        self.kind = kind  # "self", "encoder", "decoder", "cross", or "call" without a module
        self.calls = []  # attn.Answers, one a call

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        if len(self.calls) != 1:
            raise AttributeError(
                f"{self.name} was called {len(self.calls)} times: ask calls[i].{name}"
            )
        answer = getattr(self.calls[0], name)
        if answer is None:
            raise AttributeError(f"{name} was not asked of observe()")
        return answer

    def __dir__(self):
        return [*super().__dir__(), *(self.calls[0].names if self.calls else ())]

    def __repr__(self):
        times = "" if len(self.calls) == 1 else f", {len(self.calls)} calls"
        return f"Layer({self.index}, {self.name}{times}: {self.calls[0] if self.calls else None})"


class Seen:
    """Layers that were seen, in the order of their first call."""

    def __init__(self, layers):
        self.layers = layers

    encoder = property(lambda self: self._of("encoder"), doc="Self-attention of the encoder.")
    decoder = property(lambda self: self._of("decoder"), doc="Self-attention of the decoder.")
    cross = property(lambda self: self._of("cross"), doc="Cross-attention.")

    def _of(self, kind):
        return Seen([layer for layer in self.layers if layer.kind == kind])

    def __getitem__(self, key):
        """A layer by its number (-1: the last), or by its module's path."""
        if isinstance(key, int) and key < 0:
            key += 1 + max((layer.index for layer in self.layers), default=-1)
        found = [layer for layer in self.layers if key in (layer.index, layer.name)]
        if len(found) == 1:
            return found[0]
        if not self.layers:
            raise IndexError(
                "[attn.torch] no attention call was seen: is the model set to "
                'attn_implementation="attn"?'
            )
        if not found:
            raise IndexError(f"[attn.torch] no layer {key!r} was seen, but {self._names()}")
        raise LookupError(
            f"[attn.torch] several layers are number {key}: ask encoder[{key}], decoder[{key}] or "
            f"cross[{key}], or by name: {', '.join(layer.name for layer in found)}"
        )

    def _names(self):
        return ", ".join(layer.name for layer in self.layers)

    def __len__(self):
        return len(self.layers)

    def __iter__(self):
        return iter(self.layers)

    def __repr__(self):
        return "\n".join([f"Seen({len(self)} layers)", *(f"  {layer}" for layer in self.layers)])


class _Collector(_watch.Watcher):
    def __init__(self, questions, seen, names):
        self.questions = questions
        self.seen = seen
        self.names = names
        self.layer_of = {}

    def see(self, module, call, inputs, answers):
        layer = self.layer_of.get(module)
        if layer is None:
            layer = self._new(module)
            if module is not None:
                self.layer_of[module] = layer
            self.seen.layers.append(layer)
        layer.calls.append(answers)

    def _new(self, module):
        if module is None:
            index = len(self.seen._of("call"))
            return Layer(index, f"call {index}", "call")
        name = self.names.of(module)
        kind = _kind(module, name)
        index = getattr(module, "layer_idx", None)
        return Layer(len(self.seen._of(kind)) if index is None else index, name, kind)


_CROSS = re.compile(r"cross|encdec|encoder_attn", re.IGNORECASE)


def _kind(module, path):
    if getattr(module, "is_cross_attention", False) or _CROSS.search(
        f"{type(module).__name__} {path}"
    ):
        return "cross"
    parts = path.split(".")
    return next((kind for kind in ("encoder", "decoder") if kind in parts), "self")


class _Names:
    """Paths of modules in the model that is called, which a module does not know itself."""

    def __init__(self):
        self.path_of = {}

    def of(self, module):
        return self.path_of.get(module) or type(module).__name__

    @contextlib.contextmanager
    def learning(self):
        # Modules are called from the outside in: the first that is not known is a root.
        def before(module, _):
            if module not in self.path_of:
                for path, inner in module.named_modules():
                    self.path_of.setdefault(inner, path)

        hook = register_module_forward_pre_hook(before)
        try:
            yield
        finally:
            hook.remove()
