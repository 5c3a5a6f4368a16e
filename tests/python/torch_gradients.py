"""Gradients of ours against those of plain PyTorch."""

import torch


def expect_same_gradients(ours, theirs, leaves, bound):
    """Of tuples of results: of each alone and of all together, with random weights."""
    weights = [torch.randn_like(x) for x in theirs]
    every = range(len(theirs))
    for used in {*((i,) for i in every), tuple(every)}:
        mine, expected = (
            torch.autograd.grad(
                sum((x[i] * weights[i]).sum() for i in used),
                leaves,
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            for x in (ours, theirs)
        )
        assert any((x.abs() > 1000 * bound).any() for x in expected)
        for a, b in zip(mine, expected, strict=True):
            torch.testing.assert_close(a, b, atol=bound, rtol=0)
