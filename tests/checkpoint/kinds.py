"""Checkpoint files of every kind, as the programs of their time wrote them."""

from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.runner import Runner
from safetensors.torch import save_file
from torch import nn
from yacs.config import CfgNode

from crossformer_mm.checkpoint.recognize import classifier_shapes
from crossformer_mm.models.archs import ARCHS
from tests import published


def publish_small_variants(monkeypatch):
    """Register two small variants whose files are quick to write."""
    common = dict(ARCHS['T'], embed_dims=16, num_heads=(1, 2, 4, 8))
    monkeypatch.setitem(ARCHS, 'tiny', dict(common, depths=(1, 1, 2, 1)))
    monkeypatch.setitem(ARCHS, 'deep', dict(common, depths=(1, 1, 4, 1)))


@lru_cache
def _classifier(variant):
    shapes = published.CLASSIFIER_SHAPES.get(variant) or classifier_shapes(variant)
    return {name: published.weight(name, tuple(s)) for name, s in shapes.items()}


def classifier_weights(variant):
    return OrderedDict(_classifier(variant))


def backbone_weights(variant):
    return OrderedDict(
        (name, tensor)
        for name, tensor in _classifier(variant).items()
        if not name.startswith(('norm.', 'head.'))
    )


def original_entries():
    """Return the entries that the original training saves with the weights."""
    config = CfgNode({'MODEL': {'TYPE': 'cross-scale', 'NUM_HEADS': [2, 4, 8, 16]}})
    config.freeze()
    return dict(
        optimizer={'state': {0: {'step': 3, 'exp_avg': torch.ones(3)}}},
        lr_scheduler={'t_initial': 300},
        max_accuracy=81.5,
        epoch=299,
        config=config,
    )


def classifier(path, variant):
    torch.save({'model': classifier_weights(variant), **original_entries()}, path)


def first_release(path, variant):
    weights = classifier_weights(variant)
    for name in list(weights):
        if name.endswith('attn.qkv.weight'):
            attention = name.removesuffix('qkv.weight')
            weights[f'{attention}biases'] = torch.zeros(169, 2)
            index = torch.zeros(49, 49, dtype=torch.int64)
            weights[f'{attention}relative_position_index'] = index
            weights[f'{attention[:-1]}_mask'] = torch.full((4, 49, 49), -100.0)
    torch.save({'model': weights, **original_entries()}, path)


def stripped(path, variant):
    """Write a file as the original instructions make backbone-crossformer-s.pth."""
    torch.save(classifier_weights(variant), path)


def before_torch_1_6(path, variant):
    checkpoint = {'model': classifier_weights(variant), **original_entries()}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=False)


def data_parallel(path, variant):
    weights = classifier_weights(variant)
    torch.save({'model': {f'module.{k}': v for k, v in weights.items()}}, path)


def with_average(path, variant):
    """Write a file of a timm-style training, whose average must not be loaded."""
    weights = classifier_weights(variant)
    average = {name: tensor * 0 for name, tensor in weights.items()}
    torch.save({'model': weights, 'model_ema': average}, path)


def only_average(path, variant):
    torch.save({'model_ema': classifier_weights(variant)}, path)


MMCV_META = dict(
    mmdet_version='2.8.0+',
    config='model = dict()\n',
    CLASSES=('person', 'bicycle'),
    PALETTE=[[1, 2, 3], [4, 5, 6]],
    env_info='mmcv 1.2.7',
    seed=None,
    exp_name='mask_rcnn.py',
    epoch=12,
    iter=87960,
    hook_msgs={},
)
DETECTOR_PARTS = {
    'neck.lateral_convs.0.conv.weight': (8, 16, 1, 1),
    'rpn_head.rpn_conv.weight': (8, 8, 3, 3),
    'roi_head.bbox_head.fc_cls.weight': (3, 8),
}
SEGMENTOR_PARTS = {
    'neck.lateral_convs.0.conv.weight': (8, 16, 1, 1),
    'decode_head.conv_seg.weight': (150, 8, 1, 1),
    'decode_head.scale_heads.0.0.bn.num_batches_tracked': None,
    'auxiliary_head.conv_seg.weight': (150, 8, 1, 1),
}


def mmcv_weights(variant, parts):
    weights = {f'backbone.{k}': v for k, v in backbone_weights(variant).items()}
    for name, shape in parts.items():
        weights[name] = published.weight(name, shape) if shape else torch.tensor(80000)
    return weights


def detector(path, variant):
    """Write a file as MMCV 1.x does for MMDetection 2.8."""
    weights = mmcv_weights(variant, DETECTOR_PARTS)
    weights['backbone.layers.0.blocks.0.attn.biases'] = torch.zeros(169, 2)
    optimizer = {'state': {}, 'param_groups': [{'lr': 1e-6, 'params': [0]}]}
    torch.save(dict(meta=MMCV_META, state_dict=weights, optimizer=optimizer), path)


def mmcv_average(path, variant):
    """Write a file as MMCV 1.x does with EMAHook: a buffer per parameter."""
    weights = mmcv_weights(variant, DETECTOR_PARTS)
    for name, tensor in list(weights.items()):
        weights[f'ema_{name.replace(".", "_")}'] = tensor * 0
    torch.save(dict(meta=MMCV_META, state_dict=weights), path)


def segmentor(path, variant):
    """Write a file as MMCV 1.x does for MMSegmentation 0.12 on two GPUs."""
    weights = mmcv_weights(variant, SEGMENTOR_PARTS)
    weights = {f'module.{name}': tensor for name, tensor in weights.items()}
    torch.save(dict(meta=MMCV_META, state_dict=weights), path)


class Detector(BaseModel):
    """A small MMEngine model that trains quickly."""

    def __init__(self, variant, init_cfg=None):
        super().__init__()
        backbone = dict(type='CrossFormer', arch=variant, init_cfg=init_cfg)
        self.backbone = MODELS.build(backbone)
        self.bbox_head = nn.Linear(1, 1)

    def forward(self, images, mode='loss'):
        value = sum(out.mean() for out in self.backbone(images))
        return dict(loss=self.bbox_head(value[None]).square().sum())


def runner(work_dir, model, epochs=1, kind=Runner, **kwargs):
    """Make a runner with two iterations per epoch that logs each of them."""
    return kind(
        model,
        str(work_dir),
        train_dataloader=dict(
            batch_size=1,
            dataset=[dict(images=torch.zeros(3, 32, 32)) for _ in range(2)],
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
        param_scheduler=dict(type='MultiStepLR', milestones=[1]),
        **{
            'default_hooks': dict(logger=dict(type='LoggerHook', interval=1)),
            'experiment_name': work_dir.name,
            **kwargs,
        },
    )


@lru_cache
def _mmengine_file(variant):
    with TemporaryDirectory() as folder:
        training = runner(Path(folder), Detector(variant))
        training.train()
        # Replace the trained weights by known ones.
        training.model.backbone.load_state_dict(backbone_weights(variant))
        training.save_checkpoint(folder, 'known.pth')
        return Path(folder, 'known.pth').read_bytes()


def mmengine(path, variant):
    """Write a file as MMEngine does after two steps, including its log."""
    path.write_bytes(_mmengine_file(variant))


def safetensors(path, variant):
    save_file(backbone_weights(variant), path)


KINDS = {
    classifier: 'classifier',
    first_release: 'classifier',
    stripped: 'classifier',
    before_torch_1_6: 'classifier',
    data_parallel: 'classifier',
    with_average: 'classifier',
    only_average: 'classifier',
    detector: 'detector',
    mmcv_average: 'detector',
    segmentor: 'segmentor',
    mmengine: 'detector',
    safetensors: 'backbone',
}
