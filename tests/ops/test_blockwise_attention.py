"""Blockwise attention beside the textbook's formula, and both beside a loop."""

import pytest
import torch

from crossformer_mm import ops
from crossformer_mm.ops import blockwise_attention as module

ROWS, COLS, HEADS, WIDTH, SCALE = 2, 3, 2, 4, 0.3
GRID = ROWS, COLS
GROUPS = 7


def inputs(with_bias=True, with_padding=True, dtype=torch.double):
    torch.manual_seed(0)
    shape = GROUPS, HEADS, ROWS * COLS, WIDTH
    q, k, v = torch.randn(3, *shape, dtype=dtype).requires_grad_().unbind(0)
    table = torch.randn(HEADS, 2 * ROWS - 1, 2 * COLS - 1, dtype=dtype)
    padding = torch.rand(GROUPS, ROWS * COLS) < 0.3
    padding[0] = True  # a group of padding only
    table = table.requires_grad_() if with_bias else None
    return q, k, v, table, padding if with_padding else None


def plain(*args):
    return ops.plain_attention(*args, GRID, SCALE)


def blockwise(*args):
    return ops.attention(*args, GRID, SCALE)


def slow(q, k, v, table, padding):
    """Softmax attention, a query at a time, over the keys that are no padding."""
    out = torch.zeros_like(q)
    for group in range(GROUPS):
        keys = range(ROWS * COLS)
        if padding is not None and not padding[group].all():
            keys = [n for n in keys if not padding[group, n]]
        keys = torch.tensor(list(keys))
        for query in range(ROWS * COLS):
            scores = SCALE * (k[group, :, keys] @ q[group, :, query, :, None])[..., 0]
            if table is not None:
                down = query // COLS - keys // COLS + ROWS - 1
                right = query % COLS - keys % COLS + COLS - 1
                scores = scores + table[:, down, right]
            weights = scores.softmax(-1)
            out[group, :, query] = (weights[..., None] * v[group, :, keys]).sum(1)
    return out


@pytest.fixture(params=[2**20, 3 * HEADS * 4 * 6, 1], ids=['whole', 'blocks', 'single'])
def blocks(request, monkeypatch):
    """Blocks of all scores, of 3 groups and 4 queries with remainders, and of one."""
    monkeypatch.setitem(module.BLOCK_SCORES, 'cpu', request.param)
    if request.param < 2**20:
        monkeypatch.setattr(module, 'BLOCK_QUERIES', 4)


@pytest.mark.parametrize('attention', [plain, blockwise])
@pytest.mark.parametrize('with_bias', [True, False])
@pytest.mark.parametrize('with_padding', [True, False])
def test_values_and_gradients(attention, with_bias, with_padding, blocks):
    *tensors, padding = inputs(with_bias, with_padding)
    real = torch.ones(GROUPS) if padding is None else ~padding.all(1)
    weight = torch.randn_like(tensors[0]) * real[:, None, None, None]
    leaves = [tensor for tensor in tensors if tensor is not None]
    out, expected = attention(*tensors, padding), slow(*tensors, padding)
    torch.testing.assert_close(out * weight, expected * weight)
    grads = torch.autograd.grad((out * weight).sum(), leaves)
    slow_grads = torch.autograd.grad((expected * weight).sum(), leaves)
    torch.testing.assert_close(grads, slow_grads)


def test_gradcheck_of_both_orders(blocks):
    *tensors, padding = inputs()
    # What a group of padding only gets is cut off, and its gradient is 0.
    tensors = [tensor[1:3] if tensor.dim() == 4 else tensor for tensor in tensors]
    tensors = [tensor.detach().requires_grad_() for tensor in tensors]

    def attend(*args):
        return blockwise(*args, padding[1:3])

    assert torch.autograd.gradcheck(attend, tensors)
    assert torch.autograd.gradgradcheck(attend, tensors)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_gradients_in_half_precision_are_as_exact_as_the_values(dtype, blocks):
    """Scores in half precision made the gradients' error 3 to 4 times the values'."""
    torch.manual_seed(0)
    q, k, v, grad = torch.randn(4, 2, HEADS, 48, 32).mul(2).to(dtype)
    table = torch.randn(HEADS, 11, 15)
    tensors = [tensor.requires_grad_() for tensor in (q, k, v, table)]
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    out = ops.attention(*tensors, None, (6, 8), SCALE)
    expected = ops.plain_attention(*exact, None, (6, 8), SCALE)

    def error(a, b):
        return ((a.double() - b).std() / b.std()).item()

    grads = torch.autograd.grad(out, tensors, grad)
    expected_grads = torch.autograd.grad(expected, exact, grad.double())
    errors = [error(a, b) for a, b in zip(grads, expected_grads)]
    assert max(errors) < 2 * error(out, expected)


def test_dropout_drops_weights():
    torch.manual_seed(0)
    q, k, v, table, padding = inputs()
    q, k = torch.zeros_like(q), torch.zeros_like(k)
    out = ops.attention(q, k, torch.ones_like(v), None, None, GRID, SCALE, 0.5)
    # Each of six weights of 1 / 6 is dropped or doubled.
    assert set((out * 3).round(decimals=6).unique().tolist()) <= set(range(7))
    assert len(out.unique()) > 3
