"""Gradients against finite differences."""

import numpy as np


def expect_slopes(loss, inputs, gradients, bound, places=8):
    """`loss()` of the arrays in `inputs`, by name, has these gradients, which are attributes of
    `gradients`: at some places of each array, within `bound` of the slope or of 1."""
    rng = np.random.default_rng(2)
    for name, x in inputs.items():
        gradient = getattr(gradients, name)
        assert gradient.shape == x.shape and gradient.dtype == x.dtype, name
        for place in rng.choice(x.size, min(x.size, places), replace=False):
            at = np.unravel_index(place, x.shape)
            slope = central_difference(loss, x, at)
            assert abs(slope - gradient[at]) <= bound * max(1, abs(slope)), (name, at)


def central_difference(loss, x, at, step=1e-5):
    kept = x[at]
    x[at] = kept + step
    more = loss()
    x[at] = kept - step
    less = loss()
    x[at] = kept
    return (more - less) / (2 * step)
