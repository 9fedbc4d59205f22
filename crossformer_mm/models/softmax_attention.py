"""Softmax attention within groups that share a position bias.

A group of long-distance attention holds over a thousand tokens at detection sizes, so
the scores of all groups are several times the network's other activations. They are
never held at once here, forward or backward: PyTorch's fused kernels do the forward
pass; since these give up where the bias needs a gradient, the backward pass recomputes
the scores block by block, each small enough for a CPU's cache, and sums the bias's
gradient on the way.

Shapes: ``qkv [G, N, 3 C]`` for G groups of N tokens, ``bias [heads, N, N]``,
``padding [G, N]``, True where a token is padding.
"""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

# Scores in a block, and its queries. On a CPU a block has to fit the cache, on a GPU it
# has to keep the device busy.
BLOCK_SCORES = {'cpu': 2**20, 'cuda': 2**25}
BLOCK_QUERIES = 64


def plain_attention(
    qkv: Tensor,
    bias: Tensor | None,
    padding: Tensor | None,
    heads: int,
    scale: float,
    drop_rate: float = 0.0,
) -> Tensor:
    """Attend in one call; in training this holds all scores.

    Args:
        qkv (Tensor): Query, key and value of each token, ``[G, N, 3 C]``.
        bias (Tensor, optional): Added to the scores, ``[heads, N, N]``.
        padding (Tensor, optional): True where a token is no key, ``[G, N]``.
        heads (int): Number of attention heads.
        scale (float): Factor of the scores, before the bias.
        drop_rate (float): Dropout of the attention weights. Defaults to 0.

    Returns:
        Tensor: ``[G, N, C]``.
    """
    q, k, v = _split(qkv, heads)
    mask = None if bias is None else bias.to(q.dtype)[None]
    if padding is not None:
        hidden = _hide(padding, q.dtype)
        mask = hidden if mask is None else mask + hidden
    x = F.scaled_dot_product_attention(q, k, v, mask, drop_rate, scale=scale)
    return x.transpose(1, 2).flatten(2)


def blockwise_attention(
    qkv: Tensor, bias: Tensor | None, padding: Tensor | None, heads: int, scale: float
) -> Tensor:
    """Attend as :func:`plain_attention` does, in memory linear in the tokens."""
    return _BlockwiseAttention.apply(qkv, bias, padding, heads, scale)


class _BlockwiseAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        qkv: Tensor,
        bias: Tensor | None,
        padding: Tensor | None,
        heads: int,
        scale: float,
    ) -> Tensor:
        out = attention_forward(qkv, bias, padding, heads, scale)
        ctx.save_for_backward(qkv, bias, padding, out)
        ctx.heads, ctx.scale = heads, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        qkv, bias, padding, out = ctx.saved_tensors
        grad_qkv, grad_bias = attention_backward(
            grad_out, qkv, bias, padding, out, ctx.heads, ctx.scale
        )
        return grad_qkv, None if bias is None else grad_bias, None, None, None


def one_node(shapes: Callable[..., Any]) -> Callable[[Callable], Callable]:
    """Make a function a single node for torch.compile.

    Traced, its loops over blocks would be unrolled, anew for each size of image.

    Args:
        shapes (Callable): Makes empty results from the same arguments.
    """

    def decorate(function: Callable) -> Callable:
        if not hasattr(torch.library, 'custom_op'):  # before torch 2.4
            return function
        name = f'crossformer_mm::{function.__name__}'
        node = torch.library.custom_op(name, function, mutates_args=())
        node.register_fake(shapes)

        @wraps(function)
        def call(*args: Any) -> Any:
            # Called as it is where it can be: so a FLOP counter sees what is inside.
            return (node if torch.compiler.is_compiling() else function)(*args)

        return call

    return decorate


@one_node(lambda qkv, *_: qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3))
def attention_forward(
    qkv: Tensor, bias: Tensor | None, padding: Tensor | None, heads: int, scale: float
) -> Tensor:
    """Attend, in one call or, where a mask differs between groups, in several."""
    if padding is None:
        return plain_attention(qkv, bias, None, heads, scale)
    tokens = qkv.shape[1]
    return torch.cat(
        [
            plain_attention(qkv[some], bias, padding[some], heads, scale)
            for some in _chunks(len(qkv), heads * tokens**2, qkv.device)
        ]
    )


@one_node(
    lambda _, qkv, bias, *__: (
        torch.empty_like(qkv),
        qkv.new_empty(0) if bias is None else torch.empty_like(bias),
    )
)
def attention_backward(
    grad_out: Tensor,
    qkv: Tensor,
    bias: Tensor | None,
    padding: Tensor | None,
    out: Tensor,
    heads: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of qkv and, where there is one, the bias."""
    groups, tokens, _ = qkv.shape
    grad_qkv = torch.zeros_like(qkv)
    grad_bias = qkv.new_empty(0) if bias is None else torch.zeros_like(bias)
    queries = min(tokens, BLOCK_QUERIES)
    for some in _chunks(groups, heads * queries * tokens, qkv.device):
        q, k, v = _split(qkv[some], heads)
        grad_q, grad_k, grad_v = _split(grad_qkv[some], heads)
        o, grad_o = _heads(out[some], heads), _heads(grad_out[some], heads)
        # The softmax's gradient subtracts each row's sum of weight * gradient,
        # which equals this product (FlashAttention, section 3.1).
        delta = (o * grad_o).sum(-1, keepdim=True)
        for i in range(0, tokens, BLOCK_QUERIES):
            rows = slice(i, i + BLOCK_QUERIES)
            q_rows, grad_o_rows = q[:, :, rows] * scale, grad_o[:, :, rows]
            scores = q_rows @ k.transpose(2, 3)
            if bias is not None:
                scores += bias[:, rows]
            if padding is not None:
                scores += _hide(padding[some], scores.dtype)
            weights = scores.softmax(-1)
            grad_v += weights.transpose(2, 3) @ grad_o_rows
            grad_scores = grad_o_rows @ v.transpose(2, 3)
            grad_scores.sub_(delta[:, :, rows]).mul_(weights)
            grad_k += grad_scores.transpose(2, 3) @ q_rows
            grad_q[:, :, rows] = grad_scores @ k * scale
            if bias is not None:
                grad_bias[:, rows] += grad_scores.sum(0)
    return grad_qkv, grad_bias


def _chunks(groups: int, scores: int, device: torch.device) -> Iterator[slice]:
    """Cut the groups, ``scores`` each, into chunks of at most a block."""
    step = max(1, BLOCK_SCORES.get(device.type, 2**25) // scores)
    for i in range(0, groups, step):
        yield slice(i, i + step)


def _split(qkv: Tensor, heads: int) -> tuple[Tensor, ...]:
    """View ``[G, N, 3 C]`` as query, key and value ``[G, heads, N, d]``."""
    return qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def _heads(x: Tensor, heads: int) -> Tensor:
    """View ``[G, N, C]`` as ``[G, heads, N, d]``."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def _hide(padding: Tensor, dtype: torch.dtype) -> Tensor:
    """Give padding a score so low that the softmax leaves it no weight.

    It is finite: a group of padding only would otherwise become NaN, which reaches
    the gradients of its neighbours. Half of the lowest number leaves room for a bias.
    """
    scores = torch.zeros(padding.shape, dtype=dtype, device=padding.device)
    scores = scores.masked_fill(padding, torch.finfo(dtype).min / 2)
    return scores[:, None, None]
