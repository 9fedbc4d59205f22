"""Softmax attention within groups of tokens that share a learned position bias.

A group of long-distance attention holds over a thousand tokens at detection sizes, so
the scores of all groups are several times the network's other activations. PyTorch's
fused kernels hold none of them, but give up where the bias needs a gradient. Here they
do the forward pass; the backward pass recomputes the scores block by block, and sums the
gradient of the bias on the way. Its plain twin is :func:`plain_attention`.

Saves 5 GB of a training step of CrossFormer-S at 800 x 1344, ``lda_mode='interval'``, and
half of its time on 2 cores of a CPU (``tests/ops/test_blockwise_attention.py`` compares both).
Delete it when ``F.scaled_dot_product_attention`` differentiates its mask in linear memory.

Shapes: G groups of N = rows * cols tokens, h heads of width d; ``q``, ``k``, ``v`` ``[G, h,
N, d]``; ``table [h, 2 rows - 1, 2 cols - 1]``, spread to ``bias [h, N, N]``; ``padding [G,
N]``, True where a token is padding.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial, wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from .state import is_compiling, needs_plain_operations

# Scores in a block: on a CPU they have to fit the cache, on a GPU to keep it busy. The
# bias of some heads at a time is held to eight times as many.
BLOCK_SCORES = {'cpu': 2**20, 'cuda': 2**25}
BLOCK_QUERIES = 64

Grid = tuple[int, int]


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor | None,
    padding: Tensor | None,
    grid: Grid,
    scale: float,
    drop_rate: float = 0.0,
) -> Tensor:
    """Attend, in memory linear in the tokens wherever that works.

    Args:
        q (Tensor): Queries, ``[G, h, N, d]``.
        k (Tensor): Keys, of the same shape.
        v (Tensor): Values, of the same shape.
        table (Tensor, optional): Bias of each offset of query and key, added to the
            scores, ``[h, 2 rows - 1, 2 cols - 1]``.
        padding (Tensor, optional): Keys that nobody sees, ``[G, N]``.
        grid (tuple[int, int]): Rows and columns of a group.
        scale (float): Factor of the scores, before the bias.
        drop_rate (float): Dropout of the attention weights. Defaults to 0.

    Returns:
        Tensor: ``[G, h, N, d]``.
    """
    if drop_rate > 0 or needs_plain_operations():
        return plain_attention(q, k, v, table, padding, grid, scale, drop_rate)
    return _BlockwiseAttention.apply(q, k, v, table, padding, grid, scale)


def plain_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor | None,
    padding: Tensor | None,
    grid: Grid,
    scale: float,
    drop_rate: float = 0.0,
) -> Tensor:
    """Attend by the textbook's formula, all scores at once; see :func:`attention`."""
    weights = attention_weights(q, k, table, padding, grid, scale)
    return F.dropout(weights, drop_rate) @ v


def attention_weights(
    q: Tensor,
    k: Tensor,
    table: Tensor | None,
    padding: Tensor | None,
    grid: Grid,
    scale: float,
) -> Tensor:
    """Compute what each token attends to: ``[G, h, N, N]``."""
    scores = q @ k.transpose(2, 3) * scale
    if table is not None:
        scores = scores + spread(table, grid).to(scores.dtype)
    return _hide(scores, padding).softmax(-1)


def spread(table: Tensor, grid: Grid) -> Tensor:
    """Give each pair of query and key the bias of its offset: ``[h, N, N]``."""
    rows, cols = grid
    heads = table.shape[0]
    # Columns first, so that the more numerous rows are copied as a whole: a fifth of the
    # time of gathering N * N numbers.
    bias = table.index_select(2, _offset_places(cols, table.device))
    bias = bias.index_select(1, _offset_places(rows, table.device))
    bias = bias.reshape(heads, rows, rows, cols, cols).transpose(2, 3)
    return bias.reshape(heads, rows * cols, rows * cols)


class _BlockwiseAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        table: Tensor | None,
        padding: Tensor | None,
        grid: Grid,
        scale: float,
    ) -> Tensor:
        return attention_forward(q, k, v, table, padding, grid, scale)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], _: Tensor) -> None:
        *tensors, ctx.grid, ctx.scale = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, table, padding = ctx.saved_tensors
        if torch.is_grad_enabled() and not is_compiling():
            # Someone differentiates twice.
            attend = partial(
                plain_attention, padding=padding, grid=ctx.grid, scale=ctx.scale
            )
            inputs = (q, k, v) if table is None else (q, k, v, table)
            if table is None:
                attend = partial(attend, table=None)
            grads = torch.func.vjp(attend, *inputs)[1](grad)
        else:
            grads = attention_backward(
                grad, q, k, v, table, padding, ctx.grid, ctx.scale
            )
        return *grads[:3], None if table is None else grads[3], None, None, None


def one_node(empty_results: Callable[..., Any]) -> Callable[[Callable], Callable]:
    """Make a function a single node of the graphs of ``torch.compile``.

    It would unroll the loops over blocks, and compile again for each size of image.
    Delete this when PyTorch compiles a loop as one (``while_loop`` has no gradient for
    what changes in place: pytorch/pytorch#116698).

    Args:
        empty_results (Callable): Makes results of the right shape from the arguments.
    """

    def decorate(function: Callable) -> Callable:
        if not hasattr(torch.library, 'custom_op'):  # before torch 2.4
            return function
        name = f'crossformer_mm::{function.__name__}'
        node = torch.library.custom_op(name, function, mutates_args=())
        node.register_fake(empty_results)

        @wraps(function)
        def call(*args: Any) -> Any:
            # Called as it is where it can be, so that a FLOP counter sees what is inside.
            return (node if is_compiling() else function)(*args)

        return call

    return decorate


@one_node(lambda q, *_: torch.empty_like(q))
def attention_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor | None,
    padding: Tensor | None,
    grid: Sequence[int],
    scale: float,
) -> Tensor:
    """Attend by PyTorch's fused kernel."""
    groups, heads, tokens, width = q.shape
    # Heads innermost, so that they are joined without copying.
    out = q.new_empty(groups, tokens, heads, width).transpose(1, 2)
    for h in _slices(heads, 8 * _block_scores(q) // tokens**2):
        bias = q.new_zeros(1, 1, 1) if table is None else spread(table[h], grid)
        bias = bias.to(q.dtype)[None]
        # With padding, each group has a mask of its own, as large as its scores.
        step = groups if padding is None else _block_scores(q) // bias.numel()
        for g in _slices(groups, step):
            mask = bias if padding is None else _hide(bias, padding[g])
            out[g, h] = F.scaled_dot_product_attention(
                q[g, h], k[g, h], v[g, h], mask, scale=scale
            )
    return out


@one_node(
    lambda _, q, k, v, table, *__: (
        *(torch.empty_like(m) for m in (q, k, v)),
        q.new_empty(0) if table is None else torch.empty_like(table),
    )
)
def attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor | None,
    padding: Tensor | None,
    grid: Sequence[int],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients of q, k, v and, where there is one, the table."""
    groups, heads, tokens, _ = q.shape
    # Scores in half precision would lose digits that the fused kernel keeps.
    dtype = torch.promote_types(q.dtype, torch.float32)
    grads = [torch.empty_like(m) for m in (q, k, v)]
    grad_table = q.new_empty(0) if table is None else torch.empty_like(table)
    for h in _slices(heads, 8 * _block_scores(q) // tokens**2):
        bias = grad_bias = None
        if table is not None:
            bias = spread(table[h], grid).to(dtype)
            grad_bias = torch.zeros_like(bias)
        heads_here = q[:1, h].shape[1]
        scores = heads_here * min(BLOCK_QUERIES, tokens) * tokens
        for g in _slices(groups, _block_scores(q) // scores):
            # Batches of matrices, [g * h, N, d].
            parts = [m[g, h].to(dtype).flatten(0, 1) for m in (q, k, v, grad)]
            some_grads = _block_backward(
                *parts, bias, None if padding is None else padding[g], grad_bias, scale
            )
            for whole, part in zip(grads, some_grads):
                whole[g, h] = part.unflatten(0, (-1, heads_here)).to(q.dtype)
        if table is not None:
            grad_table[h] = _sum_by_offset(grad_bias, grid)
    return *grads, grad_table


def _block_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grad: Tensor,
    bias: Tensor | None,
    padding: Tensor | None,
    grad_bias: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of ``[g * h, N, d]``, and add to that of the bias."""
    q = q * scale
    grad_q, grad_k, grad_v = (torch.zeros_like(m) for m in (q, k, v))
    for rows in _slices(q.shape[1], BLOCK_QUERIES):
        scores = torch.bmm(q[:, rows], k.mT)
        if bias is not None:
            by_head = scores.unflatten(0, (-1, len(bias)))
            by_head += bias[:, rows]
        if padding is not None:
            by_group = scores.unflatten(0, (len(padding), -1))
            by_group.masked_fill_(padding[:, None, None], _lowest(scores))
        weights = scores.softmax(-1)
        grad_v.baddbmm_(weights.mT, grad[:, rows])
        grad_weights = torch.bmm(grad[:, rows], v.mT)
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, q.dtype)
        grad_k.baddbmm_(grad_scores.mT, q[:, rows])
        grad_q[:, rows] = torch.bmm(grad_scores, k)
        if bias is not None:
            grad_bias[:, rows] += grad_scores.unflatten(0, (-1, len(bias))).sum(0)
    return grad_q.mul_(scale), grad_k, grad_v


def _sum_by_offset(grad_bias: Tensor, grid: Sequence[int]) -> Tensor:
    """Sum the gradients of all pairs of an offset: the gradient of :func:`spread`."""
    rows, cols = grid
    grad = grad_bias.reshape(-1, rows, cols, rows, cols).transpose(2, 3)
    grad = grad.reshape(-1, rows * rows, cols * cols)
    place = _offset_places(rows, grad.device)
    by_row = grad.new_zeros(len(grad), 2 * rows - 1, cols * cols)
    by_row.index_add_(1, place, grad)
    place = _offset_places(cols, grad.device)
    table = grad.new_zeros(len(grad), 2 * rows - 1, 2 * cols - 1)
    return table.index_add_(2, place, by_row)


def _offset_places(side: int, device: torch.device) -> Tensor:
    """Return where in a table the offset of each pair along one side is."""
    place = torch.arange(side, device=device)
    return (place[:, None] - place + side - 1).flatten()


def _hide(scores: Tensor, padding: Tensor | None) -> Tensor:
    """Give padding the lowest score, so that the softmax leaves it no weight."""
    if padding is None:
        return scores
    return scores.masked_fill(padding[:, None, None], _lowest(scores))


def _lowest(scores: Tensor) -> float:
    """Return the lowest finite number: -inf would make a group of padding only NaN."""
    return torch.finfo(scores.dtype).min


def _block_scores(q: Tensor) -> int:
    # Any accelerator's limit is that of a GPU.
    return BLOCK_SCORES.get(q.device.type, BLOCK_SCORES['cuda'])


def _slices(end: int, step: int) -> Iterator[slice]:
    """Cut 0 to ``end`` into slices of ``step``, at least 1 each."""
    for i in range(0, end, max(1, step)):
        yield slice(i, i + max(1, step))
