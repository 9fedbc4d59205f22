"""Converted weights have the same values under the names of another program."""

import pytest
import torch
from mmengine.registry import MODELS
from torch.nn import functional as F

from crossformer_mm.checkpoint.convert import (
    RECORD,
    convert,
    make_meta,
    write_checkpoint,
)
from crossformer_mm.checkpoint.reader import CheckpointError, read_checkpoint
from crossformer_mm.checkpoint.recognize import count_stages, recognize
from tests import published
from tests.checkpoint import kinds

QUICK = ('T', 'ppS')


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'file.pth'


def convert_file(source, target, name):
    """Convert a file and return the new one."""
    network = recognize(read_checkpoint(str(source)))
    content = convert(network, target, {RECORD: {}})
    return write_checkpoint(content, source.with_name(name), publish=False)


def weights_of(path, key='state_dict'):
    return torch.load(path, weights_only=True)[key]


def assert_equal(weights, expected):
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(weights[name], tensor), name


@pytest.mark.parametrize(
    'case',
    [
        pytest.param(
            case,
            id=case['arch'],
            marks=[] if case['arch'] in QUICK else pytest.mark.slow,
        )
        for case in published.CASES
        if case['kind'] == 'cls'
    ],
)
def test_logits_of_a_converted_classifier(case, path):
    kinds.first_release(path, case['arch'])
    weights = weights_of(convert_file(path, 'classifier', 'new.pth'))
    backbone = MODELS.build(dict(type='CrossFormer', arch=case['arch'])).eval()
    inside = {k[9:]: v for k, v in weights.items() if k.startswith('backbone.')}
    backbone.load_state_dict(inside, strict=True)
    with torch.no_grad():
        tokens = backbone(published.images(case))[-1].flatten(2).transpose(1, 2)
        norm = weights['neck.norm.weight'], weights['neck.norm.bias']
        tokens = F.layer_norm(tokens, norm[0].shape, *norm)
        logits = F.linear(
            tokens.mean(1), weights['head.fc.weight'], weights['head.fc.bias']
        )
    assert published.error(logits, case['outputs'][0]) < 1e-4


@pytest.mark.parametrize('make', kinds.KINDS)
def test_backbone_of_every_kind(make, path):
    make(path, 'tiny')
    new = convert_file(path, 'backbone', 'new.pth')
    assert_equal(weights_of(new), kinds.backbone_weights('tiny'))


def test_backbone_as_safetensors(path):
    kinds.classifier(path, 'tiny')
    new = convert_file(path, 'backbone', 'new.safetensors')
    assert_equal(read_checkpoint(str(new)), kinds.backbone_weights('tiny'))
    assert new.stat().st_mode == path.stat().st_mode


@pytest.mark.parametrize(
    ('make', 'parts'),
    [
        (kinds.detector, kinds.DETECTOR_PARTS),
        (kinds.mmcv_average, kinds.DETECTOR_PARTS),
        (kinds.segmentor, kinds.SEGMENTOR_PARTS),
    ],
)
def test_complete_detectors_and_segmentors(make, parts, path):
    make(path, 'tiny')
    new = convert_file(path, kinds.KINDS[make], 'new.pth')
    assert_equal(weights_of(new), kinds.mmcv_weights('tiny', parts))


@pytest.mark.parametrize('make', [kinds.classifier, kinds.first_release])
def test_round_trip_to_the_original_names(make, path):
    make(path, 'tiny')
    there = convert_file(path, 'classifier', 'there.pth')
    back = convert_file(there, 'original', 'back.pth')
    assert_equal(weights_of(back, 'model'), kinds.classifier_weights('tiny'))


def test_fine_tuned_checkpoint_for_the_original_code(path):
    kinds.mmengine(path, 'tiny')
    new = convert_file(path, 'original', 'new.pth')
    assert_equal(weights_of(new, 'model'), kinds.backbone_weights('tiny'))


def test_conversion_is_deterministic(path):
    kinds.classifier(path, 'tiny')
    first = convert_file(path, 'classifier', 'first.pth')
    second = convert_file(path, 'classifier', 'second.pth')
    assert first.read_bytes() == second.read_bytes()


def test_views_are_saved_without_their_base(path):
    weights = kinds.classifier_weights('tiny')
    large = torch.zeros(2_000_000)
    large[:16] = weights['patch_embed.norm.bias']
    weights['patch_embed.norm.bias'] = large[:16]
    weights['head.weight'] = weights['head.weight'].t().contiguous().t()
    torch.save(weights, path)
    new = convert_file(path, 'original', 'new.pth')
    assert new.stat().st_size < path.stat().st_size - 7_000_000
    assert_equal(weights_of(new, 'model'), kinds.classifier_weights('tiny'))


def test_meta_records_the_source(path):
    kinds.detector(path, 'tiny')
    content = read_checkpoint(str(path))
    network = recognize(content)
    meta = make_meta(network, 'detector', 'a.pth', 'f00', content['meta'])
    assert meta[RECORD] == {
        'version': '0.1.0',
        'variant': 'tiny',
        'conversion': 'detector to detector',
        'source': 'a.pth',
        'source_sha256': 'f00',
    }
    assert meta['dataset_meta'] == {
        'classes': kinds.MMCV_META['CLASSES'],
        'palette': kinds.MMCV_META['PALETTE'],
    }
    newer = {'dataset_meta': {'classes': ('a',)}}
    meta = make_meta(network, 'detector', 'a.pth', 'f00', newer)
    assert meta['dataset_meta'] == {'classes': ('a',)}


def without(weights, name):
    del weights[name]


def replace(weights, name, tensor):
    weights[name] = tensor


@pytest.mark.parametrize(
    ('change', 'target', 'error'),
    [
        (
            lambda w: replace(w, 'head.weight', torch.zeros(10, 128)),
            'classifier',
            r'no whole CrossFormer-tiny classifier: 1 mismatched \(head.weight '
            r'\[10, 128\], not \[1000, 128\]\)',
        ),
        (
            lambda w: without(w, 'norm.bias'),
            'original',
            r'1 missing \(norm.bias\)',
        ),
        (
            lambda w: without(w, 'layers.3.blocks.0.norm2.bias'),
            'backbone',
            r'1 missing \(layers.3.blocks.0.norm2.bias\)',
        ),
        (
            lambda w: replace(w, 'layers.3.blocks.0.extra', torch.zeros(1)),
            'backbone',
            r'1 unknown \(layers.3.blocks.0.extra\)',
        ),
        (
            lambda w: replace(w, 'head.bias', torch.full((1000,), float('nan'))),
            'classifier',
            r'NaN or Inf \(head.bias\)',
        ),
        (
            lambda w: replace(w, 'norm.bias', torch.zeros(128).long()),
            'classifier',
            r'no floating point numbers \(norm.bias int64\)',
        ),
        (lambda w: None, 'detector', 'holds a classifier: no detector'),
    ],
)
def test_conversion_errors(change, target, error):
    weights = kinds.classifier_weights('tiny')
    change(weights)
    with pytest.raises(CheckpointError, match=error):
        convert(recognize({'model': weights}), target, {})


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(dtype):
    weights = {k: t.to(dtype) for k, t in kinds.classifier_weights('tiny').items()}
    content = convert(recognize({'model': weights}), 'backbone', {})
    expected = {name: weights[name].float() for name in kinds.backbone_weights('tiny')}
    assert_equal(content['state_dict'], expected)


@pytest.mark.parametrize('out_indices', [(0,), (1, 2), (0, 1, 2)])
def test_detector_with_fewer_stages(out_indices):
    network = dict(type='CrossFormer', arch='tiny', out_indices=out_indices)
    backbone = MODELS.build(network).state_dict()
    weights = {f'backbone.{name}': item for name, item in backbone.items()}
    weights['bbox_head.weight'] = torch.zeros(3)
    network = recognize({'state_dict': weights})
    assert (network.kind, count_stages(network.backbone)) == (
        'detector',
        max(out_indices) + 1,
    )
    assert_equal(convert(network, 'detector', {})['state_dict'], weights)
    del network.backbone['layers.0.blocks.0.mlp.fc1.bias']
    with pytest.raises(CheckpointError, match='1 missing'):
        convert(network, 'backbone', {})


def test_backbone_of_a_classifier_with_other_classes():
    weights = kinds.classifier_weights('tiny')
    weights['head.weight'] = torch.zeros(10, 128)
    content = convert(recognize({'model': weights}), 'backbone', {})
    assert_equal(content['state_dict'], kinds.backbone_weights('tiny'))


def test_network_of_unpublished_size_is_an_error():
    model = MODELS.build(
        dict(
            type='CrossFormer',
            arch=dict(embed_dims=32, depths=[1], num_heads=[1]),
            merge_sizes=[],
            out_indices=[0],
        )
    )
    network = recognize(model.state_dict())
    with pytest.raises(CheckpointError, match='of no published size'):
        convert(network, 'backbone', {})
