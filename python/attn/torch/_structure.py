"""Masks as Transformers describes them, kept as structure instead of an Lq x Lk tensor.

Transformers composes a mask from small functions of (batch, head, query, key) and asks the
registered mask function for a tensor. Here the functions that it is composed of are looked up and
rewritten as a Mask; the result is compared with the function itself before it is used. What hands
the mask through never pays for its Lq x Lk elements; what computes with it gets the plain tensor.
"""

import functools
import inspect
import re
import sys

import torch

from .. import _attn

_Mask = _attn.Mask


class StructuredMask(torch.Tensor):
    """A boolean [batch, 1, Lq, Lk] mask (True: may see) that holds a Mask in place of elements."""

    @staticmethod
    def __new__(cls, mask, query_start, batch, q_len, k_len):
        self = torch.Tensor._make_wrapper_subclass(cls, (batch, 1, q_len, k_len), dtype=torch.bool)
        self.mask = mask
        self.query_start = query_start
        return self

    def dense(self):
        batch, _, q_len, k_len = self.shape
        return torch.from_numpy(
            self.mask.visible(q_len, k_len, batch=batch, query_start=self.query_start)
        )

    def __repr__(self):
        return f"StructuredMask({self.mask}, shape={list(self.shape)})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            return args[0]
        plain = torch.utils._pytree.tree_map_only(cls, cls.dense, (args, kwargs or {}))
        return function(*plain[0], **plain[1])


def mask_of(
    batch_size,
    q_length,
    kv_length,
    q_offset=0,
    kv_offset=0,
    mask_function=None,
    attention_mask=None,
    allow_is_bidirectional_skip=False,
    use_vmap=False,
    config=None,
    device="cpu",
    **kwargs,
):
    """The mask function that Transformers calls; see transformers.masking_utils.sdpa_mask."""
    from transformers import masking_utils

    if config is not None:
        check_follows_interface(config)
    mask_function = mask_function or masking_utils.causal_mask_function
    columns = _columns(attention_mask, kv_length, kv_offset)
    structure = _Lookup(batch_size, q_length, kv_length, int(q_offset), int(kv_offset)).find(
        mask_function
    )
    if structure is None:
        return masking_utils.sdpa_mask(
            batch_size=batch_size,
            q_length=q_length,
            kv_length=kv_length,
            q_offset=q_offset,
            kv_offset=kv_offset,
            mask_function=mask_function,
            attention_mask=attention_mask,
            allow_is_causal_skip=False,
            use_vmap=use_vmap,
            device=device,
        )
    everything = mask_function is masking_utils.bidirectional_mask_function
    if columns is None and everything and allow_is_bidirectional_skip:
        return None
    mask = structure if columns is None else structure & columns
    return StructuredMask(mask, int(q_offset) - int(kv_offset), batch_size, q_length, kv_length)


def _columns(attention_mask, kv_length, kv_offset):
    """The keys that the 2-d mask of real tokens shows; None when it shows all."""
    if attention_mask is None:
        return None
    real = attention_mask.bool()[:, kv_offset : kv_offset + kv_length]
    if real.shape[1] < kv_length:
        real = torch.nn.functional.pad(real, (0, kv_length - real.shape[1]))
    if real.all():
        return None
    return _Mask.recognize(real[:, None, None, :])[0]


class _Lookup:
    """Finds the Mask that a mask function of Transformers stands for."""

    _ROWS = 32  # compared with the function; all of them up to here

    def __init__(self, batch, q_len, k_len, q_offset, kv_offset):
        self.batch, self.q_len, self.k_len = batch, q_len, k_len
        self.q_offset, self.kv_offset = q_offset, kv_offset
        self.start = q_offset - kv_offset

    def find(self, function):
        """A Mask for queries from q_offset - kv_offset, or None."""
        mask = self._rewrite(function, packed=False)
        return mask if mask is not None and self._agrees(mask, function) else None

    def _rewrite(self, function, packed):
        rule = _RULES.get(_name(function))
        return None if rule is None else rule(self, _captured(function), packed)

    def _join(self, functions, operation, packed):
        masks = [self._rewrite(f, packed) for f in functions]
        if any(m is None for m in masks):
            return None
        joined = masks[0]
        for m in masks[1:]:
            joined = operation(joined, m)
        return joined

    def _both(self, captured, packed):
        functions = captured["mask_functions"]
        packed = packed or any(_name(f) == _PACKED for f in functions)
        return self._join(functions, lambda a, b: a & b, packed)

    def _either(self, captured, packed):
        return self._join(captured["mask_functions"], lambda a, b: a | b, packed)

    def _remapped(self, captured, packed):
        # Positions count from each sequence's start: within a sequence, differences stay.
        return self._rewrite(captured["mask_function"], packed) if packed else None

    def _packed(self, captured, packed):
        lengths = []
        for ids in captured["packed_sequence_mask"].tolist():
            changes = [i for i in range(1, len(ids)) if ids[i] != ids[i - 1]]
            if len({ids[i] for i in [0, *changes]}) != len(changes) + 1:
                return None  # a sequence that is taken up again
            lengths.append([b - a for a, b in zip([0, *changes], [*changes, len(ids)])])
        return self._documents(lengths)

    def _chunked(self, captured, packed):
        size = captured["chunk_size"]
        end = max(self.k_len, self.start + self.q_len)
        lengths = []
        for padding in captured["left_padding"].tolist():
            first = size - (self.kv_offset - padding) % size
            lengths.append([first] + [size] * (max(0, end - first) // size + 1))
        return self._documents(lengths)

    def _documents(self, lengths):
        if all(one == lengths[0] for one in lengths):
            return _Mask.documents(lengths[0])
        if len(lengths) != self.batch:
            return None
        return _Mask.per_batch([_Mask.documents(one) for one in lengths])

    def _agrees(self, mask, function):
        """Compares whole rows: the first, the last and some between."""
        rows = torch.linspace(0, self.q_len - 1, min(self.q_len, self._ROWS)).long()
        b, h, q, k = (
            torch.arange(self.batch)[:, None, None, None],
            torch.zeros(1, 1, 1, 1, dtype=torch.long),
            (rows + self.q_offset)[None, None, :, None],
            (torch.arange(self.k_len) + self.kv_offset)[None, None, None, :],
        )
        expected = function(b, h, q, k).expand(self.batch, 1, len(rows), self.k_len)
        shown = mask.visible(
            len(rows), self.k_len, batch=self.batch, q_positions=(rows + self.start).tolist()
        )
        return torch.equal(torch.from_numpy(shown), expected)


def _name(function):
    """Which of Transformers' own mask functions this is."""
    if getattr(function, "__module__", None) != "transformers.masking_utils":
        return None
    return function.__qualname__.partition(".")[0]


def _captured(function):
    return inspect.getclosurevars(function).nonlocals


_PACKED = "packed_sequence_mask_function"
_RULES = {
    "causal_mask_function": lambda *_: _Mask.causal(),
    "bidirectional_mask_function": lambda *_: _Mask.full(),
    "sliding_window_overlay": lambda _, c, p: _Mask.window(c["sliding_window"] - 1, -1),
    "sliding_window_bidirectional_overlay": lambda _, c, p: _Mask.window(
        c["sliding_window"], c["sliding_window"]
    ),
    "and_masks": _Lookup._both,
    "or_masks": _Lookup._either,
    "remap_positions_for_packed_sequence": _Lookup._remapped,
    _PACKED: _Lookup._packed,
    "chunked_overlay": _Lookup._chunked,
}


@functools.lru_cache(maxsize=None)
def _computes_itself(configuration):
    """Does the modeling file beside this configuration class attend without the interface?"""
    module = sys.modules.get(configuration.__module__.replace(".configuration_", ".modeling_"))
    try:
        code = inspect.getsource(module) if module is not None else ""
    except OSError:
        return False
    attends = re.search(r"^class \w*Attention\w*\(nn\.Module\):", code, re.MULTILINE)
    return bool(attends) and "ALL_ATTENTION_FUNCTIONS" not in code


def check_follows_interface(config):
    if _computes_itself(type(config)):
        raise ValueError(
            f"[attn.torch] {config.model_type} computes attention itself instead of following "
            "Transformers' attention interface, so attn_implementation=\"attn\" cannot serve it: "
            'use attn_implementation="eager"'
        )
