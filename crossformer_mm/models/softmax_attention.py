"""Softmax attention within groups that share a position bias.

A group of long-distance attention holds over a thousand tokens at detection sizes, so
the scores of all groups are several times the network's other activations. They are
never held at once here, forward or backward: PyTorch's fused kernels do the forward
pass; since these give up where the bias needs a gradient, the backward pass recomputes
the scores block by block, each small enough for a CPU's cache, and sums the bias's
gradient on the way. The bias of all pairs is as large as the scores of a group and
spread anew from its table in both passes.

Shapes: G groups of N = rows x cols tokens and h heads of width d; ``qkv [B, H, W,
3 C]``, cut to query, key and value ``[G, h, N, d]``; ``table [h, 2 rows - 1, 2 cols -
1]``, spread to ``bias [h, N, N]``; ``padding [G, N]``, True where a token is padding.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from .partition import Grouping, group_tokens, padding_mask, ungroup_tokens
from .tracing import one_node

# Scores in a block, its queries, and the numbers in a slab of the map or in the bias of
# the heads that go together. On a CPU these have to fit the cache, on a GPU they have
# to keep the device busy.
BLOCK_SCORES = {'cpu': 2**20, 'cuda': 2**25}
BLOCK_QUERIES = 64
SLAB_NUMBERS = {'cpu': 2**21, 'cuda': 2**30}


def plain_attention(
    qkv: Tensor,
    table: Tensor | None,
    grouping: Grouping,
    heads: int,
    scale: float,
    drop_rate: float = 0.0,
) -> Tensor:
    """Attend by the textbook's formula, all scores at once.

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
    q, k, v, padding = _cut(_split(qkv, heads), grouping)
    weights = attention_weights(q, k, padding, spread(table, grouping), scale)
    x = F.dropout(weights, drop_rate) @ v
    return ungroup_tokens(x, grouping, *qkv.shape[:3]).flatten(3)


def attention_weights(
    q: Tensor, k: Tensor, padding: Tensor | None, bias: Tensor | None, scale: float
) -> Tensor:
    """Compute what each token attends to: ``[G, h, N, N]``."""
    scores = q @ k.transpose(2, 3) * scale
    mask = _mask(padding, bias, scores.dtype)
    return (scores if mask is None else scores + mask).softmax(-1)


def blockwise_attention(
    qkv: Tensor, table: Tensor | None, grouping: Grouping, heads: int, scale: float
) -> Tensor:
    """Attend as :func:`plain_attention` does, in memory linear in the tokens."""
    return _BlockwiseAttention.apply(qkv, table, grouping, heads, scale)


class _BlockwiseAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        qkv: Tensor,
        table: Tensor | None,
        grouping: Grouping,
        heads: int,
        scale: float,
    ) -> Tensor:
        out = attention_forward(qkv, table, grouping, heads, scale)
        ctx.save_for_backward(qkv, table, out)
        ctx.grouping, ctx.heads, ctx.scale = grouping, heads, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        qkv, table, out = ctx.saved_tensors
        grad_qkv, grad_table = attention_backward(
            grad_out, out, qkv, table, ctx.grouping, ctx.heads, ctx.scale
        )
        return grad_qkv, None if table is None else grad_table, None, None, None


@one_node(lambda qkv, *_: qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3))
def attention_forward(
    qkv: Tensor, table: Tensor | None, grouping: Sequence[int], heads: int, scale: float
) -> Tensor:
    """Attend by PyTorch's kernel, for some heads and a slab of the map at a time."""
    grouping = Grouping(*grouping)
    qkv = _split(qkv, heads)
    out = qkv.new_empty(*qkv.shape[:3], *qkv.shape[4:])
    for some in _heads(qkv, grouping):
        # Cast here, not in every call: the table is small.
        bias = spread(None if table is None else table[some].to(qkv.dtype), grouping)
        for rows in _slabs(qkv[..., some, :], grouping):
            part = qkv[:, rows, ..., some, :]
            out[:, rows, :, some] = _attend(part, bias, grouping, scale)
    return out.flatten(3)


@one_node(
    lambda _, __, qkv, table, *___: (
        torch.empty_like(qkv, memory_format=torch.contiguous_format),
        qkv.new_empty(0) if table is None else torch.empty_like(table),
    )
)
def attention_backward(
    grad_out: Tensor,
    out: Tensor,
    qkv: Tensor,
    table: Tensor | None,
    grouping: Sequence[int],
    heads: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of qkv and, where there is one, the table."""
    grouping = Grouping(*grouping)
    qkv = _split(qkv, heads)
    out, grad_out = (m.unflatten(3, (heads, -1)) for m in (out, grad_out))
    grad_qkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    grad_table = qkv.new_empty(0) if table is None else torch.empty_like(table)
    for some in _heads(qkv, grouping):
        bias = spread(None if table is None else table[some], grouping)
        grad_bias = None if bias is None else torch.zeros_like(bias)
        for rows in _slabs(qkv[..., some, :], grouping):
            o, grad_o = (m[:, rows, :, some] for m in (out, grad_out))
            part = qkv[:, rows, ..., some, :]
            grads = _attend_backward(grad_o, o, part, bias, grad_bias, grouping, scale)
            for i, grad in enumerate(grads):
                grad_qkv[:, rows, :, i, some] = grad
        if bias is not None:
            grad_table[some] = sum_up(grad_bias, grouping)
    return grad_qkv.flatten(3), grad_table


def _attend(
    qkv: Tensor, bias: Tensor | None, grouping: Grouping, scale: float
) -> Tensor:
    """Attend by PyTorch's kernel: ``[B, H, W, 3, h, d]`` to ``[B, H, W, h, d]``."""
    q, k, v, padding = _cut(qkv, grouping)
    if padding is None:
        mask = _mask(None, bias, q.dtype)
        x = F.scaled_dot_product_attention(q, k, v, mask, scale=scale)
    else:
        x = torch.empty_like(q)
        # The mask differs between groups.
        for some in _chunks(q, q.shape[2]):
            mask = _mask(padding[some], bias, q.dtype)
            x[some] = F.scaled_dot_product_attention(
                q[some], k[some], v[some], mask, scale=scale
            )
    return ungroup_tokens(x, grouping, *qkv.shape[:3])


def _attend_backward(
    grad_out: Tensor,
    out: Tensor,
    qkv: Tensor,
    bias: Tensor | None,
    grad_bias: Tensor | None,
    grouping: Grouping,
    scale: float,
) -> list[Tensor]:
    """Compute the gradients of q, k and v in the map, and add to the bias's."""
    q, k, v, padding = _cut(qkv, grouping)
    hidden = None if padding is None else _hide(padding, q.dtype)
    q = q * scale
    # The softmax's gradient subtracts each row's sum of weight * gradient, which equals
    # this product (FlashAttention, section 3.1).
    delta = (out * grad_out).sum(-1, keepdim=True)
    # Padding and cutting off undo each other, so do their gradients.
    grad_out, delta = (group_tokens(m, grouping) for m in (grad_out, delta))
    grads = tuple(m.new_zeros(m.shape) for m in (q, k, v))
    heads = q.shape[1]
    for some in _chunks(q, BLOCK_QUERIES):
        # Batches of matrices, [g * h, N, d].
        matrices = (m[some].flatten(0, 1) for m in (q, k, v, grad_out, delta, *grads))
        q_, k_, v_, grad_o, delta_, grad_q, grad_k, grad_v = matrices
        for i in range(0, q.shape[2], BLOCK_QUERIES):
            rows = slice(i, i + BLOCK_QUERIES)
            scores = torch.bmm(q_[:, rows], k_.mT)
            by_head = scores.unflatten(0, (-1, heads))
            if bias is not None:
                by_head += bias[:, rows]
            if hidden is not None:
                by_head += hidden[some]
            weights = scores.softmax(-1)
            grad_v.baddbmm_(weights.mT, grad_o[:, rows])
            grad_scores = torch.bmm(grad_o[:, rows], v_.mT)
            grad_scores.sub_(delta_[:, rows]).mul_(weights)
            grad_k.baddbmm_(grad_scores.mT, q_[:, rows])
            grad_q[:, rows] = torch.bmm(grad_scores, k_)
            if bias is not None:
                grad_bias[:, rows] += grad_scores.unflatten(0, (-1, heads)).sum(0)
    grads = grads[0].mul_(scale), *grads[1:]
    return [ungroup_tokens(grad, grouping, *qkv.shape[:3]) for grad in grads]


def spread(table: Tensor | None, grouping: Grouping) -> Tensor | None:
    """Give each pair of query and key the bias of its offset: ``[h, N, N]``."""
    if table is None:
        return None
    rows, cols, _ = grouping
    # Columns first, so that the more numerous rows are copied as a whole.
    bias = table.index_select(2, _offset_places(cols, table.device))
    bias = bias.index_select(1, _offset_places(rows, table.device))
    bias = bias.unflatten(2, (cols, cols)).unflatten(1, (rows, rows)).transpose(2, 3)
    return bias.reshape(len(table), rows * cols, rows * cols)


def sum_up(grad_bias: Tensor, grouping: Grouping) -> Tensor:
    """Sum the gradients of all pairs of an offset, as ``spread``'s gradient does."""
    rows, cols, _ = grouping
    grad = grad_bias.unflatten(2, (rows, cols)).unflatten(1, (rows, cols))
    grad = grad.transpose(2, 3).flatten(3).flatten(1, 2)
    place = _offset_places(rows, grad.device)
    grad = grad.new_zeros(len(grad), 2 * rows - 1, cols**2).index_add_(1, place, grad)
    place = _offset_places(cols, grad.device)
    table = grad.new_zeros(*grad.shape[:2], 2 * cols - 1)
    return table.index_add_(2, place, grad)


def _offset_places(side: int, device: torch.device) -> Tensor:
    """Find the offset of each pair along one side in a table: ``[side * side]``."""
    place = torch.arange(side, device=device)
    return (place[:, None] - place + side - 1).flatten()


def _split(qkv: Tensor, heads: int) -> Tensor:
    """View ``[B, H, W, 3 C]`` as ``[B, H, W, 3, h, d]``."""
    return qkv.unflatten(3, (3, heads, -1))


def _cut(
    qkv: Tensor, grouping: Grouping
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Cut a map ``[B, H, W, 3, h, d]``: query, key and value, and what is padding."""
    padding = padding_mask(*qkv.shape[1:3], grouping, qkv.device)
    if padding is not None:
        padding = padding.repeat(qkv.shape[0], 1)
    q, k, v = (group_tokens(part, grouping) for part in qkv.unbind(3))
    return q, k, v, padding


def _heads(qkv: Tensor, grouping: Grouping) -> Iterator[slice]:
    """Cut the heads into as many as go together."""
    batch, _, width, _, heads, d = qkv.shape
    rows, cols, interval = grouping
    numbers = max((rows * cols) ** 2, batch * rows * interval * width * 3 * d)
    return _steps(heads, 1, numbers, SLAB_NUMBERS, qkv.device)


def _slabs(qkv: Tensor, grouping: Grouping) -> Iterator[slice]:
    """Cut the rows of a map into slabs of whole windows."""
    window = grouping.rows * grouping.interval
    numbers = window * qkv[:, 0].numel()
    return _steps(qkv.shape[1], window, numbers, SLAB_NUMBERS, qkv.device)


def _chunks(q: Tensor, queries: int) -> Iterator[slice]:
    """Cut the groups of ``[G, h, N, d]`` into chunks whose scores are a block."""
    groups, heads, tokens, _ = q.shape
    scores = heads * min(queries, tokens) * tokens
    return _steps(groups, 1, scores, BLOCK_SCORES, q.device)


def _steps(
    end: int, unit: int, numbers: int, limits: dict[str, int], device: torch.device
) -> Iterator[slice]:
    """Cut 0 to ``end`` into steps of whole units, ``numbers`` each, within a limit."""
    # Any accelerator's limit is that of a GPU.
    limit = limits.get(device.type, limits['cuda'])
    step = unit * max(1, limit // numbers)
    for i in range(0, end, step):
        yield slice(i, i + step)


def _mask(
    padding: Tensor | None, bias: Tensor | None, dtype: torch.dtype
) -> Tensor | None:
    """Make what is added to the scores: ``[1 or G, heads or 1, N, N or 1]``."""
    mask = None if bias is None else bias.to(dtype)[None]
    if padding is None:
        return mask
    hidden = _hide(padding, dtype)
    return hidden if mask is None else mask + hidden


def _hide(padding: Tensor, dtype: torch.dtype) -> Tensor:
    """Give padding a score so low that the softmax leaves it no weight.

    It is finite: a group of padding only would otherwise become NaN, which reaches
    the gradients of its neighbours. Half of the lowest number leaves room for a bias.
    """
    scores = torch.zeros(padding.shape, dtype=dtype, device=padding.device)
    scores = scores.masked_fill(padding, torch.finfo(dtype).min / 2)
    return scores[:, None, None]
