"""Kind and variant of a network, recognized from names and shapes."""

import pytest
import torch

from crossformer_mm.checkpoint.reader import CheckpointError, read_checkpoint
from crossformer_mm.checkpoint.recognize import (
    backbone_shapes,
    nearest_variant,
    recognize,
)
from tests import published
from tests.checkpoint import kinds


@pytest.mark.parametrize(('make', 'kind'), kinds.KINDS.items())
def test_kind_variant_and_weights(make, kind, tmp_path):
    path = tmp_path / 'file.pth'
    make(path, 'tiny')
    network = recognize(read_checkpoint(str(path)))
    assert (network.kind, network.variant) == (kind, 'tiny')
    expected = kinds.backbone_weights('tiny')
    assert network.backbone.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(network.backbone[name], tensor), name


@pytest.mark.parametrize('variant', published.CLASSIFIER_SHAPES)
def test_every_published_variant(variant):
    shapes = {
        name: tuple(shape)
        for name, shape in published.CLASSIFIER_SHAPES[variant].items()
        if not name.startswith(('norm.', 'head.'))
    }
    assert backbone_shapes(variant) == shapes
    assert nearest_variant(shapes) == variant


def test_variant_is_recognized_with_missing_weights():
    shapes = dict(list(backbone_shapes('S').items())[20:])
    assert nearest_variant(shapes) == 'S'
    assert nearest_variant({}) is None


def test_buffers_are_dropped_with_a_reason(tmp_path):
    kinds.first_release(tmp_path / 'file.pth', 'tiny')
    dropped = recognize(read_checkpoint(str(tmp_path / 'file.pth'))).dropped
    for buffer in ('attn.biases', 'attn.relative_position_index', 'attn_mask'):
        assert 'buffer' in dropped[f'layers.2.blocks.1.{buffer}']
    assert dropped['optimizer'] == 'no weights'


def test_heads_keep_their_names(tmp_path):
    kinds.segmentor(tmp_path / 'file.pth', 'tiny')
    network = recognize(read_checkpoint(str(tmp_path / 'file.pth')))
    assert network.rest.keys() == kinds.SEGMENTOR_PARTS.keys()


def test_mmpretrain_names_become_the_published_ones():
    weights = kinds.classifier_weights('tiny')
    renamed = {}
    for name, tensor in weights.items():
        name = name.replace('head.', 'head.fc.')
        inside = not name.startswith(('norm.', 'head.'))
        prefix = 'backbone.' if inside else 'neck.' * name.startswith('norm.')
        renamed[prefix + name] = tensor
    network = recognize({'state_dict': renamed})
    assert network.kind == 'classifier'
    assert (network.backbone | network.rest).keys() == weights.keys()


def swin():
    names = ['patch_embed.proj.weight', 'layers.0.blocks.0.attn.qkv.weight']
    return {'model': {name: torch.zeros(3) for name in names}}


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ([1, 2], 'holds no weights, but a list'),
        ({}, 'holds no weights, but nothing at all'),
        ({'model': {}, 'epoch': 3}, 'holds no weights, but model, epoch'),
        (swin(), 'holds no CrossFormer: .* but patch_embed.proj.weight'),
    ],
)
def test_other_content_is_an_error(content, message):
    with pytest.raises(CheckpointError, match=message):
        recognize(content)


def test_two_backbones_need_a_prefix():
    teacher = kinds.backbone_weights('tiny')
    student = kinds.backbone_weights('deep')
    both = {f'teacher.backbone.{name}': item for name, item in teacher.items()}
    both |= {f'student.backbone.{name}': item for name, item in student.items()}
    with pytest.raises(CheckpointError, match='2 CrossFormers, under .*student'):
        recognize(both)
    network = recognize(both, 'student.')
    assert network.variant == 'deep'
    assert network.dropped['teacher.backbone.patch_embed.norm.bias'] == (
        'of another network'
    )
    both_names = "take prefix='student.backbone.' or prefix='teacher.backbone.'"
    with pytest.raises(CheckpointError, match=both_names):
        recognize(both, 'neck.')
