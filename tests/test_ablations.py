"""Modules that replace CrossFormer's own in the paper's ablations."""

import pytest
import torch
from mmengine.registry import MODELS

from crossformer_mm.ablations import (
    PositionedEmbedding,
    RelativePositionBias,
    ShiftedWindowAttention,
    SpatialReductionAttention,
)
from crossformer_mm.models.attention import ATTENTIONS, GroupAttention
from crossformer_mm.models.partition import Grouping
from crossformer_mm.models.position_bias import (
    POSITION_BIASES,
    DynamicPositionBias,
)

ARCH = dict(embed_dims=32, depths=[2, 2], num_heads=[2, 4])
VARIANTS = [
    dict(attention=attention, position_bias=bias)
    for attention in ATTENTIONS
    for bias in POSITION_BIASES
    if attention != 'reduction' or bias in ('ape', 'none')
] + [dict(patch_sizes=[4], merge_sizes=[[2]])]


def build(**kwargs):
    torch.manual_seed(0)
    settings = dict(group_size=[4, 4], crs_interval=[4, 2], lda_mode='group')
    settings |= dict(out_indices=[0, 1], drop_path_rate=0.0)
    return MODELS.build(dict(type='CrossFormer', arch=ARCH, **settings, **kwargs))


@pytest.mark.parametrize('variant', VARIANTS, ids=str)
def test_every_configured_variant_gets_gradients(variant):
    model = build(**variant)
    outputs = model(torch.randn(2, 3, 60, 92))
    assert [list(o.shape) for o in outputs] == [[2, 32, 15, 23], [2, 64, 8, 12]]
    sum(output.square().mean() for output in outputs).backward()
    idle = [name for name, p in model.named_parameters() if not p.grad.any()]
    assert idle == []


def test_attention_type_and_interval_of_each_block():
    def kinds(attention):
        bias = 'none' if attention == 'reduction' else 'dpb'
        blocks = build(attention=attention, position_bias=bias).layers[0].blocks
        return [(type(b.attn), b.grouping(32, 32).interval) for b in blocks]

    group, shifted = GroupAttention, ShiftedWindowAttention
    assert kinds('lsda') == [(group, 1), (group, 4)]
    assert kinds('sda') == [(group, 1), (group, 1)]
    assert kinds('lda') == [(group, 4), (group, 4)]
    assert kinds('shifted') == [(group, 1), (shifted, 1)]
    assert [kind for kind, _ in kinds('reduction')] == [SpatialReductionAttention] * 2


@pytest.mark.parametrize('size', [(10, 13), (8, 8), (4, 9), (3, 3)])
def test_shifted_windows_token_by_token(size):
    """Compare with a loop over all pairs of tokens in the same shifted window."""
    height, width = size
    rows = cols = min(4, height)
    heads, dim = 2, 8
    torch.manual_seed(0)
    attention = ShiftedWindowAttention(
        dim, heads, position_bias=DynamicPositionBias(64, heads)
    ).eval()
    x = torch.randn(1, height, width, dim)

    def window(row, col):
        # Swin shifts by half a window, unless one window spans the side.
        up, left = rows // 2, cols // 2
        return (
            (row - up) // rows if rows < height else 0,
            (col - left) // cols if cols < width else 0,
        )

    with torch.no_grad():
        out = attention(x, Grouping(rows, cols, 1))
        q, k, v = attention.qkv(x)[0].unflatten(-1, (3, heads, -1)).unbind(2)
        table = attention.pos(rows, cols)
        expected = torch.zeros(height, width, dim)
        places = [(r, c) for r in range(height) for c in range(width)]
        for r, c in places:
            near = [p for p in places if window(*p) == window(r, c)]
            scores = torch.stack(
                [
                    (q[r, c] * k[i, j]).sum(-1) * attention.scale
                    + table[:, r - i + rows - 1, c - j + cols - 1]
                    for i, j in near
                ]
            )
            weights = scores.softmax(0)
            values = torch.stack([v[place] for place in near])
            expected[r, c] = (weights[..., None] * values).sum(0).flatten()
        torch.testing.assert_close(
            out[0], attention.proj(expected), rtol=1e-4, atol=1e-5
        )


def test_spatial_reduction_attends_to_token_means():
    """Check that an averaging reduction gives the keys and values of the means."""
    torch.manual_seed(0)
    attention = SpatialReductionAttention(8, 2, ratio=2).eval()
    attention.norm = torch.nn.Identity()
    with torch.no_grad():
        attention.reduction.weight.zero_()
        attention.reduction.weight[range(8), range(8)] = 0.25
        attention.reduction.bias.zero_()
        x = torch.randn(1, 6, 4, 8)
        means = x.unfold(1, 2, 2).unfold(2, 2, 2).mean((-1, -2)).flatten(1, 2)
        k, v = attention.kv(means).unflatten(-1, (2, 2, -1)).unbind(2)
        q = attention.q(x).flatten(1, 2).unflatten(-1, (2, -1))
        weights = (torch.einsum('bqhd,bkhd->bhqk', q, k) / 2).softmax(-1)
        expected = torch.einsum('bhqk,bkhd->bqhd', weights, v).reshape(x.shape)
        out = attention(x, Grouping(1, 1, 1))
        torch.testing.assert_close(out, attention.proj(expected), rtol=1e-4, atol=1e-5)


def test_relative_position_bias_lookup():
    bias = RelativePositionBias(num_heads=2, group_size=7)
    assert torch.equal(bias(7, 7), bias.table)
    small = bias(3, 5)
    assert small.shape == (2, 5, 9)
    # The center entry is offset 0 in both tables.
    assert torch.equal(small[:, 2, 4], bias.table[:, 6, 6])
    assert torch.equal(small[:, 0, 8], bias.table[:, 4, 10])
    with pytest.raises(
        ValueError, match=r"up to 7 x 7, got 8 x 3.*position_bias='dpb'"
    ):
        bias(8, 3)


def test_absolute_positions_are_added_and_interpolated():
    embedding = PositionedEmbedding(3, 32).eval()
    plain = PositionedEmbedding(3, 32).eval()
    plain.load_state_dict(embedding.state_dict())
    plain.position.data.zero_()
    for size in ((224, 224), (64, 96)):
        image = torch.randn(1, 3, *size)
        added = (embedding(image) - plain(image)).permute(0, 3, 1, 2)
        if size == (224, 224):
            torch.testing.assert_close(added, embedding.position, rtol=1e-4, atol=1e-5)
        assert added.shape[2:] == (size[0] // 4, size[1] // 4)
        assert added.std() > 0.005


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(attention='window'), "attention must be one of .* got 'window'"),
        (dict(attention='reduction'), "attention='reduction' has no groups.*'ape'"),
    ],
)
def test_invalid_attention_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)
