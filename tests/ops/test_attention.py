import pytest
import torch
from crossformer_mm.models.softmax_attention import (
    blockwise_attention,
    plain_attention,
)

from crossformer_mm.models import softmax_attention
from crossformer_mm.models.partition import Grouping

HEADS, SCALE = 2, 0.3
GROUPING = Grouping(rows=2, cols=3, interval=2)
FULL, PADDED, HOLLOW = (8, 12), (9, 7), (5, 5)  # sizes; HOLLOW has groups of padding


def inputs(size, with_bias=True, dtype=torch.double):
    torch.manual_seed(0)
    rows, cols, _ = GROUPING
    qkv = torch.randn(2, *size, 3 * HEADS * 4, dtype=dtype, requires_grad=True)
    table = torch.randn(HEADS, 2 * rows - 1, 2 * cols - 1, dtype=dtype)
    return qkv, table.requires_grad_() if with_bias else None


def slow_attention(qkv, table):
    """Softmax attention, a token and a head at a time, over the keys of its group."""
    rows, cols, interval = GROUPING
    batch, height, width, _ = qkv.shape
    q, k, v = qkv.unflatten(-1, (3, HEADS, -1)).unbind(3)

    def place(row, col):
        """Tell a token's group, and where it is in the group."""
        down, right = row // interval, col // interval
        group = row % interval, col % interval, down // rows, right // cols
        return group, down % rows, right % cols

    tokens = [(row, col) for row in range(height) for col in range(width)]
    out = []
    for row, col in tokens:
        group, down, right = place(row, col)
        keys = [token for token in tokens if place(*token)[0] == group]
        places = [place(*token) for token in keys]
        at = (slice(None), *torch.tensor(keys).unbind(1))
        scores = SCALE * torch.einsum('bhd,bnhd->bhn', q[:, row, col], k[at])
        if table is not None:
            offsets = [
                table[:, down - d + rows - 1, right - r + cols - 1]
                for _, d, r in places
            ]
            scores = scores + torch.stack(offsets, 1)
        weights = scores.softmax(-1)
        out.append(torch.einsum('bhn,bnhd->bhd', weights, v[at]))
    return torch.stack(out, 1).flatten(2).unflatten(1, (height, width))


@pytest.mark.parametrize('attention', [plain_attention, blockwise_attention])
@pytest.mark.parametrize('with_bias', [True, False])
@pytest.mark.parametrize('size', [FULL, PADDED, HOLLOW])
def test_values_and_gradients(attention, with_bias, size, monkeypatch):
    # Slabs of one row of windows, blocks of 3 groups and 4 queries, with remainders.
    monkeypatch.setitem(softmax_attention.SLAB_NUMBERS, 'cpu', 1)
    monkeypatch.setattr(softmax_attention, 'BLOCK_QUERIES', 4)
    monkeypatch.setitem(softmax_attention.BLOCK_SCORES, 'cpu', 3 * HEADS * 4 * 6)
    qkv, table = inputs(size, with_bias)
    out = attention(qkv, table, GROUPING, HEADS, SCALE)
    expected = slow_attention(qkv, table)
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    leaves = [qkv] if table is None else [qkv, table]
    grads = torch.autograd.grad((out * weight).sum(), leaves)
    slow = torch.autograd.grad((expected * weight).sum(), leaves)
    for grad, slow_grad in zip(grads, slow):
        torch.testing.assert_close(grad, slow_grad)


@pytest.mark.parametrize('interval', [1, 2])
@pytest.mark.parametrize('size', [(4, 6), (3, 5), (2, 3)])
def test_gradcheck(size, interval):
    grouping = GROUPING._replace(interval=interval)
    assert torch.autograd.gradcheck(
        lambda qkv, table: blockwise_attention(qkv, table, grouping, HEADS, SCALE),
        inputs(size),
    )


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('size', [FULL, PADDED, HOLLOW])
def test_half_precision_is_finite_and_close(dtype, size):
    qkv, table = inputs(size, dtype=torch.float32)
    expected = blockwise_attention(qkv, table, GROUPING, HEADS, SCALE)
    out = blockwise_attention(qkv.to(dtype), table, GROUPING, HEADS, SCALE)
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.05)
    grads = torch.autograd.grad(out.float().pow(2).sum(), (qkv, table))
    expected_grads = torch.autograd.grad(expected.pow(2).sum(), (qkv, table))
    for grad, expected_grad in zip(grads, expected_grads):
        torch.testing.assert_close(grad, expected_grad, rtol=0.1, atol=0.1)
