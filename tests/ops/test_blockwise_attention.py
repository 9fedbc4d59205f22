"""Blockwise and plain attention compared with a loop over tokens."""

import pytest
import torch

from crossformer_mm import ops
from crossformer_mm.ops import blockwise_attention as module
from crossformer_mm.ops.blockwise_attention import plain_attention
from crossformer_mm.ops.partition import Grouping

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
    """Compute softmax attention token by token over the keys of its group."""
    rows, cols, interval = GROUPING
    batch, height, width, _ = qkv.shape
    q, k, v = qkv.unflatten(-1, (3, HEADS, -1)).unbind(3)

    def place(row, col):
        """Return a token's group, and its row and column in the group."""
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


@pytest.fixture(params=[2**20, 3 * HEADS * 4 * 6, 1], ids=['whole', 'blocks', 'single'])
def blocks(request, monkeypatch):
    """Set block sizes: all scores, 3 groups and 4 queries with remainders, one."""
    monkeypatch.setitem(module.BLOCK_SCORES, 'cpu', request.param)
    if request.param < 2**20:
        monkeypatch.setitem(module.SLAB_NUMBERS, 'cpu', 1)
        monkeypatch.setattr(module, 'BLOCK_QUERIES', 4)


@pytest.mark.parametrize('attention', [plain_attention, ops.attention])
@pytest.mark.parametrize('with_bias', [True, False])
@pytest.mark.parametrize('size', [FULL, PADDED, HOLLOW])
def test_values_and_gradients(attention, with_bias, size, blocks):
    qkv, table = inputs(size, with_bias)
    out = attention(qkv, table, GROUPING, HEADS, SCALE)
    expected = slow_attention(qkv, table)
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    leaves = [qkv] if table is None else [qkv, table]
    grads = torch.autograd.grad((out * weight).sum(), leaves)
    slow = torch.autograd.grad((expected * weight).sum(), leaves)
    torch.testing.assert_close(grads, slow)


@pytest.mark.parametrize(('size', 'interval'), [((3, 5), 2), ((2, 3), 1)])
def test_first_and_second_order_gradcheck(size, interval):
    grouping = GROUPING._replace(interval=interval)

    def attend(qkv, table):
        return ops.attention(qkv, table, grouping, HEADS, SCALE)

    assert torch.autograd.gradcheck(attend, inputs(size))
    assert torch.autograd.gradgradcheck(attend, inputs(size))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('size', [FULL, PADDED, HOLLOW, (16, 24)])
def test_half_precision_gradients_are_as_accurate_as_the_values(dtype, size):
    """With half-precision scores, gradients had 3 to 4 times the values' error."""
    torch.manual_seed(0)
    qkv, table = inputs(size)
    grouping = GROUPING if size != (16, 24) else Grouping(8, 12, 2)
    table = torch.randn(HEADS, 2 * grouping.rows - 1, 2 * grouping.cols - 1)
    qkv = (2 * qkv.detach()).to(dtype)
    tensors = [tensor.requires_grad_() for tensor in (qkv, table)]
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    out = ops.attention(*tensors, grouping, HEADS, SCALE)
    expected = plain_attention(*exact, grouping, HEADS, SCALE)
    grad = torch.randn_like(out)

    def error(a, b):
        return ((a.double() - b).std() / b.std()).item()

    grads = torch.autograd.grad(out, tensors, grad)
    expected_grads = torch.autograd.grad(expected, exact, grad.double())
    errors = [error(a, b) for a, b in zip(grads, expected_grads)]
    assert max(errors) < 2 * error(out, expected)


def test_dropout_drops_weights():
    torch.manual_seed(0)
    qkv = torch.zeros(1, 4, 6, 3 * HEADS * 4)
    qkv[..., -HEADS * 4 :] = 1  # values
    out = ops.attention(qkv, None, GROUPING, HEADS, SCALE, drop_rate=0.5)
    # Each of six weights of 1 / 6 is dropped or doubled.
    thirds = {round(x, 4) for x in (out * 3).unique().tolist()}
    assert thirds <= set(range(7)) and len(thirds) > 3
