"""Softmax attention within groups of a map that share a learned position bias.

At detection sizes a group of long-distance attention has over a thousand tokens, and
the scores of all groups take several times the memory of all other activations.
PyTorch's fused kernels do not store the scores, but have no gradient for the bias. Here
they compute the forward pass; the backward pass recomputes the scores block by block
and accumulates the gradient of the bias. :func:`plain_attention` computes the same in
plain PyTorch. docs/speed.md lists the savings. Delete this module when
``F.scaled_dot_product_attention`` has a gradient for its mask in linear memory.

Shapes: G groups of N = rows * cols tokens, h heads of width d; ``qkv [B, H, W, 3 C]``,
cut to ``q``, ``k``, ``v [G, h, N, d]``; ``table [h, 2 rows - 1, 2 cols - 1]``, expanded
to ``bias [h, N, N]``; ``padding [G, N]``, True where a token is padding.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .partition import Grouping, group_tokens, padding_mask, ungroup_tokens
from .state import is_compiling, needs_plain_operations, on_device

# Number of scores in a block, and of elements in a slab of a map: they must fit the
# cache of a CPU, and keep a GPU busy. The expanded bias of a slab has at most eight
# times as many elements as a block of scores.
BLOCK_SCORES = {'cpu': 2**20, 'cuda': 2**25}
BLOCK_QUERIES = 64
SLAB_NUMBERS = {'cpu': 2**21, 'cuda': 2**30}
SETTINGS = 'Tensor? table, SymInt[] grouping, SymInt heads, float scale'


def attention(
    qkv: Tensor,
    table: Tensor | None,
    grouping: Grouping,
    heads: int,
    scale: float,
    drop_rate: float = 0.0,
) -> Tensor:
    """Attend within groups, if possible in memory linear in the number of tokens.

    Args:
        qkv (Tensor): Query, key and value of each token, ``[B, H, W, 3 C]``.
        table (Tensor, optional): Bias of each offset of query and key, added to the
            scores, ``[heads, 2 rows - 1, 2 cols - 1]``.
        grouping (Grouping): Cuts the map into groups.
        heads (int): Number of attention heads.
        scale (float): Factor of the scores, before the bias.
        drop_rate (float): Dropout of the attention weights. Defaults to 0.

    Returns:
        Tensor: ``[B, H, W, C]``.
    """
    if drop_rate > 0 or needs_plain_operations():
        return plain_attention(qkv, table, grouping, heads, scale, drop_rate)
    return _BlockwiseAttention.apply(qkv, table, grouping, heads, scale)


def plain_attention(
    qkv: Tensor,
    table: Tensor | None,
    grouping: Grouping,
    heads: int,
    scale: float,
    drop_rate: float = 0.0,
) -> Tensor:
    """Compute :func:`attention` in plain PyTorch, with all scores in memory."""
    q, k, v, padding = cut(qkv, grouping, heads)
    weights = attention_weights(q, k, table, padding, grouping, scale)
    x = (F.dropout(weights, drop_rate) @ v).transpose(1, 2).flatten(2)
    return ungroup_tokens(x, grouping, *qkv.shape[:3])


def attention_weights(
    q: Tensor,
    k: Tensor,
    table: Tensor | None,
    padding: Tensor | None,
    grouping: Grouping,
    scale: float,
) -> Tensor:
    """Compute the attention weights: ``[G, h, N, N]``."""
    scores = q @ k.transpose(2, 3) * scale
    if table is not None:
        scores = scores + expand_bias(table, grouping).to(scores.dtype)
    return (scores if padding is None else _mask(scores, padding)).softmax(-1)


def cut(
    qkv: Tensor, grouping: Grouping, heads: int
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Cut a map into query, key, value and padding mask of its groups."""
    groups = group_tokens(qkv, grouping)
    dim = qkv.shape[3] // 3 // heads
    groups = groups.reshape(*groups.shape[:2], 3, heads, dim)
    q, k, v = groups.permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v, padding_mask(qkv, grouping)


def expand_bias(table: Tensor, grouping: Grouping) -> Tensor:
    """Expand the table to a bias for each pair of query and key: ``[h, N, N]``."""
    rows, cols, _ = grouping
    heads = table.shape[0]
    # Columns first: the larger copy then moves contiguous rows.
    bias = table.index_select(2, _offset_indices(cols, table.device))
    bias = bias.index_select(1, _offset_indices(rows, table.device))
    bias = bias.reshape(heads, rows, rows, cols, cols).transpose(2, 3)
    return bias.reshape(heads, rows * cols, rows * cols)


class _BlockwiseAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        qkv: Tensor, table: Tensor | None, grouping: Grouping, heads: int, scale: float
    ) -> Tensor:
        return attention_forward(qkv, table, grouping, heads, scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _: Tensor) -> None:
        qkv, table, *ctx.settings = inputs
        ctx.save_for_backward(qkv, table)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        qkv, table = ctx.saved_tensors
        if torch.is_grad_enabled() and not is_compiling():
            # Double backward.
            def attend(qkv: Tensor, table: Tensor | None = None) -> Tensor:
                return plain_attention(qkv, table, *ctx.settings)

            inputs = (qkv,) if table is None else (qkv, table)
            grads = torch.func.vjp(attend, *inputs)[1](grad)
        else:
            grads = attention_backward(grad, qkv, table, *ctx.settings)
        return grads[0], None if table is None else grads[1], None, None, None


def compiled_operator(
    schema: str, empty_results: Callable[..., Any]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function a single node in graphs of ``torch.compile``.

    The compiler unrolls loops (pytorch/pytorch#111441): loops over blocks would take
    seconds to compile, again for each image size. Delete this when the issue is closed.

    Args:
        schema (str): Types of the arguments and results, in torch's notation.
        empty_results (Callable): Returns empty results of the right shape.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        if not hasattr(torch.library, 'custom_op'):  # before torch 2.4
            return function
        name = f'crossformer_mm::{function.__name__}'
        node = torch.library.custom_op(name, function, mutates_args=(), schema=schema)
        node.register_fake(empty_results)
        # Called directly otherwise, so that FLOP counters see its operations.
        return lambda *args: (node if is_compiling() else function)(*args)

    return decorate


@compiled_operator(
    f'(Tensor qkv, {SETTINGS}) -> Tensor',
    lambda qkv, *_: qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3),
)
def attention_forward(
    qkv: Tensor, table: Tensor | None, grouping: Sequence[int], heads: int, scale: float
) -> Tensor:
    """Attend with PyTorch's fused kernel, slab by slab."""
    grouping = Grouping(*grouping)  # the operator passes a list
    parts = qkv.unflatten(3, (3, heads, -1))
    out = torch.empty_like(parts[:, :, :, 0])
    for rows, h in _slabs(parts, grouping):
        bias = None if table is None else expand_bias(table[h], grouping)
        slab = parts[:, rows, :, :, h]
        out[:, rows, :, h] = _slab_forward(slab, bias, grouping, scale)
    return out.flatten(3)


def _slab_forward(
    qkv: Tensor, bias: Tensor | None, grouping: Grouping, scale: float
) -> Tensor:
    """Attend within a slab ``[B, H', W, 3, h', d]`` with the fused kernel."""
    batch, height, width, _, heads, dim = qkv.shape
    q, k, v, padding = cut(qkv.flatten(3), grouping, heads)
    bias = q.new_zeros(1, 1, 1) if bias is None else bias.to(q.dtype)
    # With padding, each group needs its own mask, as large as its scores.
    step = len(q) if padding is None else on_device(BLOCK_SCORES, q) // bias.numel()
    out = q.new_empty(len(q), q.shape[2], heads, dim)
    for g in _slices(len(q), step):
        mask = bias[None] if padding is None else _mask(bias[None], padding[g])
        x = F.scaled_dot_product_attention(q[g], k[g], v[g], mask, scale=scale)
        out[g] = x.transpose(1, 2)
    out = ungroup_tokens(out.flatten(2), grouping, batch, height, width)
    return out.unflatten(3, (heads, dim))


@compiled_operator(
    f'(Tensor grad, Tensor qkv, {SETTINGS}) -> (Tensor, Tensor)',
    lambda _, qkv, table, *__: (
        torch.empty_like(qkv, memory_format=torch.contiguous_format),
        qkv.new_empty(0) if table is None else torch.empty_like(table),
    ),
)
def attention_backward(
    grad: Tensor,
    qkv: Tensor,
    table: Tensor | None,
    grouping: Sequence[int],
    heads: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of qkv and, if there is one, of the table."""
    grouping = Grouping(*grouping)
    parts = qkv.unflatten(3, (3, heads, -1))
    grad = grad.unflatten(3, (1, heads, -1))
    grad_parts = torch.empty_like(parts, memory_format=torch.contiguous_format)
    grad_table = qkv.new_empty(0) if table is None else torch.zeros_like(table)
    for rows, h in _slabs(parts, grouping):
        bias = None if table is None else expand_bias(table[h], grouping)
        slabs = grad[:, rows, :, :, h], parts[:, rows, :, :, h]
        grad_slab, grad_bias = _slab_backward(*slabs, bias, grouping, scale)
        grad_parts[:, rows, :, :, h] = grad_slab
        if grad_bias is not None:
            grad_table[h] += _sum_by_offset(grad_bias, grouping)
    return grad_parts.flatten(3), grad_table


def _slab_backward(
    grad: Tensor, qkv: Tensor, bias: Tensor | None, grouping: Grouping, scale: float
) -> tuple[Tensor, Tensor | None]:
    """Compute the gradients of a slab ``[B, H', W, 3, h', d]`` and of the bias."""
    batch, height, width, _, heads, dim = qkv.shape
    q, k, v, padding = cut(qkv.flatten(3), grouping, heads)
    grad = group_tokens(grad.flatten(3), grouping).unflatten(2, (heads, dim))
    grad = grad.transpose(1, 2)
    # As in the fused kernel, scores are float32 under half precision.
    dtype = torch.promote_types(q.dtype, torch.float32)
    bias = None if bias is None else bias.to(dtype)
    grad_bias = None if bias is None else torch.zeros_like(bias)
    grad_qkv = q.new_empty(len(q), q.shape[2], 3, heads, dim)
    queries = q[:1, :, :BLOCK_QUERIES, 0].numel()
    step = on_device(BLOCK_SCORES, q) // queries // q.shape[2]
    for g in _slices(len(q), step):
        q_, k_, v_, grad_ = (m[g].to(dtype).contiguous() for m in (q, k, v, grad))
        q_ = q_ * scale
        grad_q, grad_k, grad_v = (torch.zeros_like(m) for m in (q_, k_, v_))
        for n in _slices(q.shape[2], BLOCK_QUERIES):
            scores = q_[:, :, n] @ k_.mT
            if bias is not None:
                scores += bias[:, n]
            if padding is not None:
                scores = _mask(scores, padding[g])
            weights = scores.softmax(-1)
            grad_v += weights.mT @ grad_[:, :, n]
            grad_weights = grad_[:, :, n] @ v_.mT
            grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, dtype)
            grad_k += grad_scores.mT @ q_[:, :, n]
            grad_q[:, :, n] = grad_scores @ k_
            if grad_bias is not None:
                grad_bias[:, n] += grad_scores.sum(0)
        for i, part in enumerate((grad_q.mul_(scale), grad_k, grad_v)):
            grad_qkv[g, :, i] = part.transpose(1, 2).to(q.dtype)
    # The gradient of padding is cropping, which ungrouping does.
    grad_qkv = ungroup_tokens(grad_qkv.flatten(2), grouping, batch, height, width)
    return grad_qkv.unflatten(3, (3, heads, dim)), grad_bias


def _sum_by_offset(grad_bias: Tensor, grouping: Grouping) -> Tensor:
    """Sum the gradients over all pairs of an offset: undo :func:`expand_bias`."""
    rows, cols, _ = grouping
    grad = grad_bias.reshape(-1, rows, cols, rows, cols).transpose(2, 3)
    grad = grad.reshape(-1, rows * rows, cols * cols)
    index = _offset_indices(rows, grad.device)
    by_row = grad.new_zeros(len(grad), 2 * rows - 1, cols * cols)
    by_row.index_add_(1, index, grad)
    index = _offset_indices(cols, grad.device)
    table = grad.new_zeros(len(grad), 2 * rows - 1, 2 * cols - 1)
    return table.index_add_(2, index, by_row)


def _offset_indices(side: int, device: torch.device) -> Tensor:
    """Return the index into the table of each pair along one side."""
    index = torch.arange(side, device=device)
    return (index[:, None] - index + side - 1).flatten()


def _mask(scores: Tensor, padding: Tensor) -> Tensor:
    """Set padding to the lowest finite score: -inf gives NaN if all is padding."""
    return scores.masked_fill(padding[:, None, None], torch.finfo(scores.dtype).min)


def _slabs(parts: Tensor, grouping: Grouping) -> Iterator[tuple[slice, slice]]:
    """Cut a map ``[B, H, W, 3, h, d]`` into slabs: rows of whole windows, and heads."""
    window = grouping.rows * grouping.interval
    limit = on_device(SLAB_NUMBERS, parts)
    step = window * max(1, limit // (window * parts[:, 0].numel()))
    max_h = 8 * on_device(BLOCK_SCORES, parts) // (grouping.rows * grouping.cols) ** 2
    for rows in _slices(parts.shape[1], step):
        for h in _slices(
            parts.shape[4], min(max_h, limit // parts[:, rows, :, :, 0].numel())
        ):
            yield rows, h


def _slices(end: int, step: int) -> Iterator[slice]:
    """Yield slices of ``step``, or 1 if it is smaller, from 0 to ``end``."""
    for i in range(0, end, max(1, step)):
        yield slice(i, i + max(1, step))
