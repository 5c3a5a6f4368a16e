"""Who watches the attention calls of this thread (or task)."""

import contextlib
import contextvars

_ACTIVE = contextvars.ContextVar("attn.torch watchers", default=())


class Watcher:
    """Sees every attention call while it is active."""

    questions = {}  # of attn.observe

    def see(self, module, call, inputs, answers):
        """module: the caller or None; inputs: (q, k, v, bias, sinks); answers: attn.Answers."""
        raise NotImplementedError


def active():
    return _ACTIVE.get()


@contextlib.contextmanager
def watching(watcher):
    token = _ACTIVE.set((*_ACTIVE.get(), watcher))
    try:
        yield
    finally:
        _ACTIVE.reset(token)
