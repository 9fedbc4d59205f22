import pytest
import torch

from crossformer_mm.models import softmax_attention
from crossformer_mm.models.softmax_attention import (
    blockwise_attention,
    plain_attention,
)

HEADS, SCALE = 2, 0.3


def inputs(groups, tokens, with_bias, with_padding, dtype=torch.double):
    torch.manual_seed(0)
    qkv = torch.randn(groups, tokens, 3 * HEADS * 4, dtype=dtype, requires_grad=True)
    bias = torch.randn(HEADS, tokens, tokens, dtype=dtype, requires_grad=True)
    padding = torch.rand(groups, tokens) < 0.3
    padding[-1] = True  # a group that consists of padding only
    return qkv, bias if with_bias else None, padding if with_padding else None


def slow_attention(qkv, bias, padding):
    """Softmax attention, a group and a head at a time, over real keys only."""
    groups, tokens, _ = qkv.shape
    outs = []
    for group in range(groups):
        keys = torch.arange(tokens)
        if padding is not None:
            keys = keys[~padding[group]]
        q, k, v = qkv[group].view(tokens, 3, HEADS, -1).unbind(1)
        heads = []
        for head in range(HEADS):
            scores = SCALE * q[:, head] @ k[keys, head].T
            if bias is not None:
                scores = scores + bias[head][:, keys]
            heads.append(scores.softmax(-1) @ v[keys, head])
        outs.append(torch.cat(heads, -1))
    return torch.stack(outs)


@pytest.mark.parametrize('attention', [plain_attention, blockwise_attention])
@pytest.mark.parametrize('with_bias', [True, False])
@pytest.mark.parametrize('with_padding', [True, False])
def test_values_and_gradients(attention, with_bias, with_padding, monkeypatch):
    # Blocks of 3 groups and 4 queries, with a remainder in both.
    monkeypatch.setattr(softmax_attention, 'BLOCK_QUERIES', 4)
    monkeypatch.setitem(softmax_attention.BLOCK_SCORES, 'cpu', 3 * HEADS * 4 * 10)
    qkv, bias, padding = inputs(8, 10, with_bias, with_padding)
    out = attention(qkv, bias, padding, HEADS, SCALE)
    expected = slow_attention(qkv, bias, padding)
    assert out.isfinite().all()

    # What a query of padding gets is cut off later, so it has no gradient.
    weight = torch.randn_like(out)
    if with_padding:
        weight[padding] = 0
        out, expected = out[:-1], expected[:-1]
    torch.testing.assert_close(out, expected)
    leaves = [qkv] if bias is None else [qkv, bias]
    grads = torch.autograd.grad((out * weight[: len(out)]).sum(), leaves)
    slow = torch.autograd.grad((expected * weight[: len(out)]).sum(), leaves)
    for grad, slow_grad in zip(grads, slow):
        torch.testing.assert_close(grad, slow_grad)


def test_gradcheck():
    qkv, bias, padding = inputs(2, 5, True, True)
    padding[-1, 1:3] = False  # beside a score of -1e308 a step of 1e-6 is lost
    assert torch.autograd.gradcheck(
        lambda qkv, bias: blockwise_attention(qkv, bias, padding, HEADS, SCALE),
        (qkv, bias),
    )


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_finite_and_close(dtype):
    qkv, bias, padding = inputs(4, 20, True, True, dtype=torch.float32)
    expected = blockwise_attention(qkv, bias, padding, HEADS, SCALE)
    out = blockwise_attention(qkv.to(dtype), bias, padding, HEADS, SCALE)
    (grad,) = torch.autograd.grad(out[:-1].float().pow(2).sum(), qkv)
    (expected_grad,) = torch.autograd.grad(expected[:-1].pow(2).sum(), qkv)
    assert out.isfinite().all()
    torch.testing.assert_close(out[:-1].float(), expected[:-1], rtol=0.05, atol=0.05)
    torch.testing.assert_close(grad, expected_grad, rtol=0.1, atol=0.1)
