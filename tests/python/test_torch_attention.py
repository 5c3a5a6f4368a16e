"""attn.torch.attention: the engine's masks, and gradients through log-sum-exp and entropy."""

import attn
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch_gradients import expect_same_gradients  # noqa: E402


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


MASK = attn.Mask.causal() & attn.Mask.window(6, 0)


def by_hand(q, k, v, visible, bias, sinks):
    """(out, lse, entropy) with PyTorch's own operations."""
    groups = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(groups, 1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bias
    scores = scores.masked_fill(~visible, -torch.inf)
    lse = scores.logsumexp(-1)
    all_scores = torch.cat([scores, sinks[None, :, None, None].expand(*lse.shape, 1)], -1)
    p = all_scores.softmax(-1)
    entropy = -(p * p.clamp_min(1e-300).log()).sum(-1)
    return p[..., :-1] @ v, lse, entropy


def test_values_and_gradients():
    q, k, v = random(2, 4, 9, 8), random(2, 2, 11, 8), random(2, 2, 11, 5)
    bias = random(1, 4, 1, 11)
    sinks = torch.tensor([0.5, -1.0, 0.0, 2.0], requires_grad=True)
    visible = torch.from_numpy(MASK.visible(9, 11, query_start=2))
    given = attn.torch.attention(
        q, k, v, mask=MASK, bias=bias, sinks=sinks, query_start=2, entropy=True
    )
    expected = by_hand(q, k, v, visible, bias, sinks.double())
    for a, b in zip(given, expected):
        assert (a - b).abs().max() < 1e-7
    expect_same_gradients(given, expected, (q, k, v, bias, sinks), 1e-6)


def test_gradcheck():
    q, k, v = random(1, 2, 5, 4), random(1, 1, 7, 4), random(1, 1, 7, 3)

    def run(*inputs):
        return attn.torch.attention(*inputs, mask=MASK, query_start=2, soft_cap=3, entropy=True)

    torch.autograd.gradcheck(run, (q, k, v), eps=1e-5, atol=1e-7)


def test_without_gradients_it_is_the_same():
    q, k, v = (torch.randn(1, 2, 33, 16, requires_grad=True) for _ in range(3))
    with_gradients = attn.torch.attention(q, k, v, mask=MASK, entropy=True)
    with torch.no_grad():
        without = attn.torch.attention(q, k, v, mask=MASK, entropy=True)
    for a, b in zip(with_gradients, without):
        assert torch.equal(a, b)
    assert attn.torch.attention(q, k, v).entropy is None


def test_an_entropy_loss_trains():
    q, k, v = (torch.randn(1, 2, 64, 8) for _ in range(3))
    q.requires_grad_()
    optimizer = torch.optim.SGD([q], lr=50)
    means = []
    for _ in range(30):
        entropy = attn.torch.attention(q, k, v, mask=attn.Mask.causal(), entropy=True).entropy
        means.append(entropy.mean().item())
        optimizer.zero_grad()
        entropy.mean().backward()
        optimizer.step()
    assert means[-1] < 0.5 * means[0]


def test_is_observed():
    q, k, v = (torch.randn(1, 2, 9, 8) for _ in range(3))
    with attn.torch.observe(max_probability=True) as seen:
        attn.torch.attention(q, k, v, entropy=True)
    assert seen[0].max_probability.shape == (1, 2, 9)


def test_mistakes():
    q = torch.randn(1, 2, 9, 8)
    with pytest.raises(ValueError, match=r"\[attention\] key has 3 dimensions, must have 4"):
        attn.torch.attention(q, q[0], q)
    with pytest.raises(ValueError, match="width"):
        attn.torch.attention(q, q[..., :4], q)
    with pytest.raises(ValueError, match="dropout_p is 1"):
        attn.torch.attention(q, q, q, dropout_p=1)


def test_transforms_of_torch_func_are_refused_by_name():
    q = torch.randn(2, 1, 2, 5, 4)

    def attend(x):
        return attn.torch.attention(x, x, x).out

    for call in (
        lambda: torch.func.vmap(attend)(q),
        lambda: torch.func.jvp(attend, (q[0],), (q[0],)),
    ):
        with pytest.raises(ValueError, match="torch.func's transforms"):
            call()
    with pytest.raises(NotImplementedError, match="torch.func's transforms.*use backward"):
        torch.func.grad(lambda x: attend(x).sum())(q[0])
