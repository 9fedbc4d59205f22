"""Attention recorded by hooks equals the network's attention."""

import pytest
import torch

from crossformer_mm import CrossFormer
from crossformer_mm.attention_record import record_attention
from crossformer_mm.ops.partition import ungroup_tokens

ARCH = dict(embed_dims=32, depths=[2, 2], num_heads=[2, 4])


def backbone(**kwargs):
    torch.manual_seed(0)
    settings = dict(group_size=[7, 7], crs_interval=[4, 2], out_indices=[0, 1])
    return CrossFormer(ARCH, **settings, **kwargs).eval()


@pytest.fixture(params=['interval', 'group'])
def recorded(request):
    """Record a map that needs padding at both edges."""
    model = backbone(lda_mode=request.param)
    image = torch.randn(1, 3, 90, 150)
    with record_attention(model) as records, torch.no_grad():
        outputs = model(image)
    return model, image, outputs, records


def test_each_block_is_recorded_and_hooks_are_removed(recorded):
    model, image, outputs, records = recorded
    assert [len(stage) for stage in records] == ARCH['depths']
    assert [r.grouping.interval for stage in records for r in stage] == [1, 4, 1, 2]
    with torch.no_grad():
        again = model(image)
    assert all(map(torch.equal, outputs, again))
    assert [len(stage) for stage in records] == ARCH['depths']
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_weights_times_values_equal_the_attention(recorded):
    model, _, _, records = recorded
    for record in sum(records, []):
        attention, (height, width) = record.attention, record.shape
        weights = record.weights()
        groups = record.groups()
        values = attention.qkv(record.x).chunk(3, -1)[2].flatten(0, 2)
        values = values[groups.clamp(min=0)].unflatten(2, (attention.num_heads, -1))
        x = (weights @ values.transpose(1, 2)).transpose(1, 2).flatten(2)
        x = ungroup_tokens(x, record.grouping, 1, height, width)
        expected = attention(record.x, record.grouping)
        torch.testing.assert_close(attention.proj(x), expected, rtol=1e-4, atol=1e-5)


def test_token_attends_to_its_group_only(recorded):
    *_, records = recorded
    for record in sum(records, []):
        height, width = record.shape
        row, col = height - 1, width // 2
        numbers, weights = record.of_token(row, col)
        rows, cols, interval = record.grouping
        assert row * width + col in numbers
        assert len(numbers) == len(set(numbers.tolist())) <= rows * cols
        if interval > 1:
            assert set((numbers // width % interval).tolist()) == {row % interval}
            assert set((numbers % width % interval).tolist()) == {col % interval}
        else:
            assert set((numbers // width // rows).tolist()) == {row // rows}
            assert set((numbers % width // cols).tolist()) == {col // cols}
        # Padding gets no attention.
        torch.testing.assert_close(weights.sum(1), torch.ones(len(weights)))


def test_batch_is_refused_and_hooks_are_removed():
    model = backbone()
    refused = pytest.raises(ValueError, match='one image at a time, got 2')
    with refused, record_attention(model), torch.no_grad():
        model(torch.randn(2, 3, 64, 64))
    assert not any(module._forward_pre_hooks for module in model.modules())
