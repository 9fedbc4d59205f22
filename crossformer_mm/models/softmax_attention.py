"""Softmax attention within groups that share a position bias.

A group of long-distance attention holds over a thousand tokens at detection sizes, so
the scores of all groups are several times the network's other activations. They are
never held at once here, forward or backward: PyTorch's fused kernels do the forward
pass; since these give up where the bias needs a gradient, the backward pass recomputes
the scores block by block, each small enough for a CPU's cache, and sums the bias's
gradient on the way. The bias of all pairs is as large as the scores of a group and
spread anew from its table in both passes.

Shapes: G groups of N = rows x cols tokens; ``qkv [B, H, W, 3 C]``, cut to ``[G, N,
3 C]``; ``table [heads, 2 rows - 1, 2 cols - 1]``, spread to ``bias [heads, N, N]``;
``padding [G, N]``, True where a token is padding.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from .partition import Grouping, group_tokens, padding_mask, ungroup_tokens
from .tracing import one_node

# Scores in a block, its queries, and the numbers in a slab of the map. On a CPU these
# have to fit the cache, on a GPU they have to keep the device busy.
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
    x, padding = _cut(qkv, grouping)
    weights = attention_weights(x, padding, spread(table, grouping), heads, scale)
    x = F.dropout(weights, drop_rate) @ _split(x, heads)[2]
    x = x.transpose(1, 2).flatten(2)
    return ungroup_tokens(x, grouping, *qkv.shape[:3])


def attention_weights(
    x: Tensor, padding: Tensor | None, bias: Tensor | None, heads: int, scale: float
) -> Tensor:
    """Compute what each token attends to: ``[G, N, 3 C]`` to ``[G, heads, N, N]``."""
    q, k, _ = _split(x, heads)
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
    """Attend, slab by slab of the map, so that no second map of qkv is there."""
    grouping = Grouping(*grouping)
    # Cast here, not in every call: the table is small.
    bias = spread(None if table is None else table.to(qkv.dtype), grouping)
    batch, height, width, channels = qkv.shape
    out = qkv.new_empty(batch, height, width, channels // 3)
    for rows in _slabs(qkv, grouping):
        x, padding = _cut(qkv[:, rows], grouping)
        if padding is None:
            x = _attend(x, None, bias, heads, scale)
        else:
            # The mask differs between groups.
            chunks = _chunks(len(x), heads * x.shape[1] ** 2, x.device)
            x = torch.cat(
                [_attend(x[some], padding[some], bias, heads, scale) for some in chunks]
            )
        out[:, rows] = ungroup_tokens(x, grouping, *out[:, rows].shape[:3])
    return out


@one_node(
    lambda _, __, qkv, table, *___: (
        torch.empty_like(qkv, memory_format=torch.contiguous_format),
        qkv.new_empty(0 if table is None else table.shape),
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
    bias = spread(table, grouping)
    grad_bias = None if bias is None else torch.zeros_like(bias)
    grad_qkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    for rows in _slabs(qkv, grouping):
        x, padding = _cut(qkv[:, rows], grouping)
        # Padding and cutting off undo each other, so do their gradients.
        o, grad_o = (group_tokens(m[:, rows], grouping) for m in (out, grad_out))
        grad_x = _attend_backward(grad_o, o, x, padding, bias, grad_bias, heads, scale)
        grad_qkv[:, rows] = ungroup_tokens(
            grad_x, grouping, *grad_qkv[:, rows].shape[:3]
        )
    if bias is None:
        return grad_qkv, qkv.new_empty(0)
    return grad_qkv, sum_up(grad_bias, grouping)


def spread(table: Tensor | None, grouping: Grouping) -> Tensor | None:
    """Give each pair of query and key the bias of its offset: ``[heads, N, N]``."""
    if table is None:
        return None
    tokens = grouping.rows * grouping.cols
    index = _offset_index(grouping, table.device)
    bias = table.flatten(1).gather(1, index.expand(table.shape[0], -1))
    return bias.unflatten(1, (tokens, tokens))


def sum_up(grad_bias: Tensor, grouping: Grouping) -> Tensor:
    """Sum the gradients of all pairs of an offset, as ``spread``'s gradient does."""
    rows, cols, _ = grouping
    grad_table = grad_bias.new_zeros(len(grad_bias), (2 * rows - 1) * (2 * cols - 1))
    index = _offset_index(grouping, grad_bias.device)
    grad_table.index_add_(1, index, grad_bias.flatten(1))
    return grad_table.unflatten(1, (2 * rows - 1, 2 * cols - 1))


def _offset_index(grouping: Grouping, device: torch.device) -> Tensor:
    """Find each pair's offset in a flattened table: ``[N * N]``.

    The table starts at the offset of the first query from the last key, so a pair's
    place in it is the difference of two numbers, one of the query and one of the key.
    """
    down = torch.arange(grouping.rows, device=device) * (2 * grouping.cols - 1)
    place = (down[:, None] + torch.arange(grouping.cols, device=device)).flatten()
    return (place[:, None] - place + place[-1]).flatten()


def _cut(qkv: Tensor, grouping: Grouping) -> tuple[Tensor, Tensor | None]:
    """Cut a map ``[B, H, W, 3 C]`` into groups and tell which tokens are padding."""
    padding = padding_mask(*qkv.shape[1:3], grouping, qkv.device)
    if padding is not None:
        padding = padding.repeat(qkv.shape[0], 1)
    return group_tokens(qkv, grouping), padding


def _attend(
    x: Tensor,
    padding: Tensor | None,
    bias: Tensor | None,
    heads: int,
    scale: float,
) -> Tensor:
    """Attend in each group by PyTorch's kernel: ``[G, N, 3 C]`` to ``[G, N, C]``."""
    q, k, v = _split(x, heads)
    mask = _mask(padding, bias, q.dtype)
    x = F.scaled_dot_product_attention(q, k, v, mask, scale=scale)
    return x.transpose(1, 2).flatten(2)


def _attend_backward(
    grad_out: Tensor,
    out: Tensor,
    x: Tensor,
    padding: Tensor | None,
    bias: Tensor | None,
    grad_bias: Tensor | None,
    heads: int,
    scale: float,
) -> Tensor:
    """Compute the gradient of x and add to the bias's, block by block."""
    grad_x = torch.empty_like(x)
    groups, tokens, _ = x.shape
    queries = min(tokens, BLOCK_QUERIES)
    for some in _chunks(groups, heads * queries * tokens, x.device):
        q, k, v = (_flat(part) for part in _split(x[some], heads))
        o, grad_o = (_flat(_heads(part[some], heads)) for part in (out, grad_out))
        q = q * scale
        grad_q, grad_k, grad_v = (torch.zeros_like(part) for part in (q, k, v))
        # The softmax's gradient subtracts each row's sum of weight * gradient,
        # which equals this product (FlashAttention, section 3.1).
        delta = (o * grad_o).sum(-1, keepdim=True)
        hidden = None if padding is None else _hide(padding[some], x.dtype)
        for i in range(0, tokens, BLOCK_QUERIES):
            rows = slice(i, i + BLOCK_QUERIES)
            scores = torch.bmm(q[:, rows], k.mT)
            by_head = scores.unflatten(0, (-1, heads))
            if bias is not None:
                by_head += bias[:, rows]
            if hidden is not None:
                by_head += hidden
            weights = scores.softmax(-1)
            grad_v.baddbmm_(weights.mT, grad_o[:, rows])
            grad_scores = torch.bmm(grad_o[:, rows], v.mT)
            grad_scores.sub_(delta[:, rows]).mul_(weights)
            grad_k.baddbmm_(grad_scores.mT, q[:, rows])
            grad_q[:, rows] = torch.bmm(grad_scores, k)
            if bias is not None:
                grad_bias[:, rows] += grad_scores.unflatten(0, (-1, heads)).sum(0)
        grads = grad_q * scale, grad_k, grad_v
        for part, grad in zip(_split(grad_x[some], heads), grads):
            part.copy_(grad.unflatten(0, (-1, heads)))
    return grad_x


def _slabs(qkv: Tensor, grouping: Grouping) -> Iterator[slice]:
    """Cut the rows of a map into slabs of whole windows."""
    batch, height, width, channels = qkv.shape
    window = grouping.rows * grouping.interval
    numbers = batch * window * width * channels
    step = window * max(1, _limit(SLAB_NUMBERS, qkv.device) // numbers)
    for i in range(0, height, step):
        yield slice(i, i + step)


def _chunks(groups: int, scores: int, device: torch.device) -> Iterator[slice]:
    """Cut the groups, ``scores`` each, into chunks of at most a block."""
    step = max(1, _limit(BLOCK_SCORES, device) // scores)
    for i in range(0, groups, step):
        yield slice(i, i + step)


def _limit(limits: dict[str, int], device: torch.device) -> int:
    """Look up a device's limit; any accelerator's is that of a GPU."""
    return limits.get(device.type, limits['cuda'])


def _split(x: Tensor, heads: int) -> tuple[Tensor, ...]:
    """View ``[G, N, 3 C]`` as query, key and value ``[G, heads, N, d]``."""
    return x.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def _heads(x: Tensor, heads: int) -> Tensor:
    """View ``[G, N, C]`` as ``[G, heads, N, d]``."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def _flat(x: Tensor) -> Tensor:
    """Lay ``[G, heads, N, d]`` out as a batch of matrices ``[G * heads, N, d]``."""
    return x.flatten(0, 1).contiguous()


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
