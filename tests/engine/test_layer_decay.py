"""Layer-wise decay of the learning rate."""

import pytest
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from crossformer_mm import CrossFormer
from tests.helpers import ROOT

LR = 1e-3
ARCH = dict(embed_dims=16, depths=[1, 2, 3, 1], num_heads=[1, 2, 4, 8])


def rates(model, **paramwise_cfg):
    """Build the optimizer; return relative learning rate and decay per parameter."""
    cfg = dict(
        type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=LR, weight_decay=0.05),
        constructor='LayerDecayOptimWrapperConstructor',
        paramwise_cfg=paramwise_cfg,
    )
    groups = build_optim_wrapper(model, cfg).optimizer.param_groups
    found = {p: (g['lr'] / LR, g['weight_decay']) for g in groups for p in g['params']}
    return {name: found[p] for name, p in model.named_parameters() if p in found}


@pytest.mark.parametrize(
    ('name', 'power'),  # seven blocks
    [
        ('patch_embed.projs.0.weight', 8),
        ('patch_embed.norm.bias', 8),
        ('layers.0.blocks.0.attn.pos.pos1.2.bias', 7),
        ('layers.0.downsample.reductions.1.weight', 7),
        ('layers.1.blocks.0.norm1.weight', 6),
        ('layers.1.blocks.1.mlp.fc1.weight', 5),
        ('layers.1.downsample.norm.weight', 5),
        ('layers.2.blocks.2.attn.qkv.bias', 2),
        ('layers.2.downsample.norm.weight', 2),
        ('layers.3.blocks.0.mlp.fc2.weight', 1),
    ],
)
def test_factor_in_the_backbone(name, power):
    rate, _ = rates(CrossFormer(ARCH), layer_decay_rate=0.5)[name]
    assert rate == pytest.approx(0.5**power)


@pytest.mark.parametrize(
    'config',
    [
        'retinanet_crossformer_t_fpn_1x_coco.py',
        'upernet_crossformerpp_s_160k_ade20k.py',
    ],
)
def test_inside_detectors_and_segmentors(config):
    cfg = Config.fromfile(ROOT / 'configs' / config)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    blocks = sum(len(stage.blocks) for stage in model.backbone.layers)
    found = rates(model, layer_decay_rate=0.9)
    assert found.keys() == dict(model.named_parameters()).keys()
    for name, (rate, _) in found.items():
        if not name.startswith('backbone.'):
            assert rate == 1
    first, _ = found['backbone.patch_embed.projs.0.weight']
    assert first == pytest.approx(0.9 ** (blocks + 1))
    assert len({rate for rate, _ in found.values()}) == blocks + 2


def test_other_factors_multiply():
    model = nn.Sequential(CrossFormer(ARCH), nn.Linear(2, 2))
    found = rates(
        model,
        layer_decay_rate=0.5,
        norm_decay_mult=0.0,
        custom_keys={'mlp.fc1': dict(lr_mult=0.1)},
    )
    assert found['0.layers.3.blocks.0.mlp.fc1.weight'] == pytest.approx((0.05, 0.05))
    assert found['0.layers.3.blocks.0.norm1.weight'] == pytest.approx((0.5, 0.0))
    assert found['1.weight'] == (1, 0.05)


def test_frozen_parameters_get_no_group():
    found = rates(CrossFormer(ARCH, frozen_stages=1), layer_decay_rate=0.5)
    assert not any(name.startswith('patch_embed') for name in found)
    assert found['layers.3.blocks.0.mlp.fc2.weight'][0] == 0.5


@pytest.mark.parametrize('rate', [None, 0, 1.1, 'fast'])
def test_rate_out_of_range(rate):
    with pytest.raises(ValueError, match=f'layer_decay_rate must be .*got {rate!r}'):
        rates(CrossFormer(ARCH), layer_decay_rate=rate)


def test_model_without_crossformer():
    with pytest.raises(ValueError, match='needs a CrossFormer, BaseModule has none'):
        rates(BaseModule(), layer_decay_rate=0.5)
