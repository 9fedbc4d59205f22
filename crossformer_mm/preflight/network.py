"""Check normalization, pretrained file, widths and strides."""

import os.path as osp
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from torch import nn

from ..checkpoint import CheckpointError, PretrainedBackbone
from ..engine.checks import is_missing
from ..models import CrossFormer
from ..models.init_cfg import split_init_cfg
from ..swap.dry_run import backbone_outputs, build_backbone, first_line, image_side
from ..swap.rules import normalized
from .datasets import to_list
from .finding import Finding


def check_network(cfg: Config) -> Iterator[Finding]:
    """Check that the backbone fits its pretrained file and the parts after it."""
    backbone = cfg.model.get('backbone')
    if not backbone:
        yield Finding('note', 'backbone', f'{cfg.model.type} has none of its own')
        return
    try:
        network = build_backbone(cfg)
        outputs = backbone_outputs(network, backbone)
    except Exception as error:
        text = f'{backbone.type}: {first_line(error)}'
        yield Finding('FAIL', 'backbone', text, 'correct its arguments')
        return
    yield from check_normalization(cfg, isinstance(network, CrossFormer))
    yield from check_pretrained(backbone, network)
    yield from check_widths(cfg, outputs.widths)


def check_normalization(cfg: Config, is_crossformer: bool) -> Iterator[Finding]:
    """Check that images are normalized as in pretraining."""
    given = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    mean = given.get('mean')
    if mean and 0 < max(mean) <= 1:
        text = f'mean={list(mean)} is for images from 0 to 1, these go to 255'
        remedy = ', '.join(f'{key}={value}' for key, value in normalized().items())
        yield Finding('FAIL', 'normalization', text, remedy)
        return
    files = [*pretrained_files(cfg.model.backbone), cfg.model.get('pretrained') or '']
    torchvision = any(str(file).startswith('torchvision://') for file in files)
    if not (is_crossformer and any(files)) and not torchvision:
        return
    for key, value in normalized().items():
        if given.get(key) != value:
            text = f'data_preprocessor.{key} is {given.get(key)}'
            remedy = f'{key}={value}, as in pretraining'
            yield Finding('FAIL', 'normalization', text, remedy)


def pretrained_files(backbone: dict[str, Any]) -> list[str]:
    """List the files that the init_cfg of a backbone names."""
    pretrained, _ = split_init_cfg(backbone.get('init_cfg'))
    return [entry['checkpoint'] for entry in pretrained]


def check_pretrained(backbone: dict[str, Any], network: nn.Module) -> Iterator[Finding]:
    """Check that the pretrained file exists, fits the backbone, and is complete."""
    files = pretrained_files(backbone)
    if not files:
        yield Finding('note', 'pretrained', 'no file: trained from scratch')
    for file in files:
        path = osp.expanduser(file)
        if '://' in path:
            yield Finding('note', 'pretrained', f'{path} is downloaded')
        elif isinstance(network, CrossFormer):
            try:
                PretrainedBackbone(path)(network)
            except CheckpointError as error:
                # Its message has escaped line breaks.
                text, _, remedy = str(error).partition('\\n')
                remedy = remedy or 'choose the file of this backbone'
                yield Finding('FAIL', 'pretrained', text, remedy)
            else:
                yield Finding('ok', 'pretrained', f'{path} loads whole')
        elif is_missing(path):
            yield Finding('FAIL', 'pretrained', f'no {path}', 'put it there')


def check_widths(cfg: Config, widths: list[int]) -> Iterator[Finding]:
    """Check that the neck, or each head without a neck, has the backbone's widths."""
    parts = [('model.neck', neck) for neck in to_list(cfg.model.get('neck'))[:1]]
    if not parts:
        for key in ('decode_head', 'auxiliary_head'):
            parts += [(f'model.{key}', head) for head in to_list(cfg.model.get(key))]
    for name, part in parts:
        given, index = part.get('in_channels'), part.get('in_index')
        if isinstance(given, int):
            expected = [widths[-1]]
            fits = given in widths
            if type(index) is int and index < len(widths):
                expected = [widths[index]]
                fits = given == widths[index]
        elif isinstance(given, (list, tuple)):
            is_list = isinstance(index, (list, tuple))
            expected = [widths[i] for i in index] if is_list else widths
            fits = sorted(given) == sorted(expected)  # YOLOv3's are in reverse
        else:
            continue
        if not fits:
            is_int = isinstance(given, int)
            text = f'{name}.in_channels is {given if is_int else list(given)}'
            text += f', the backbone returns {widths}'
            remedy = f'set it to {expected[0] if is_int else expected}'
            yield Finding('FAIL', 'widths', text, remedy)


def check_strides(cfg: Config, model: BaseModel) -> Iterator[Finding]:
    """Check that anchors, points and regions use the strides of their maps."""
    side = image_side(cfg)
    model.eval()
    with torch.no_grad():
        maps = model.extract_feat(torch.zeros(1, 3, side, side))
    sizes = [m.shape[-1] for m in maps]
    for name, module in model.named_modules():
        strides = level_strides(module)
        if not strides or len(strides) > len(sizes):
            continue
        for level, (stride, size) in enumerate(zip(strides, sizes)):
            # The size of a level of a few pixels is rounded.
            if size >= 4 and not 0.7 < size * stride / side < 1.5:
                text = f'model.{name}, level {level}: stride {stride}, '
                text += f'the map has {round(side / size)}'
                remedy = 'set its strides, or out_indices of the backbone'
                yield Finding('FAIL', 'strides', text, remedy)


def level_strides(module: Any) -> list[float]:
    """Return the strides in the settings of a head or region extractor."""
    if hasattr(module, 'featmap_strides'):
        return list(module.featmap_strides)
    strides = getattr(getattr(module, 'prior_generator', None), 'strides', [])
    return [s[0] if isinstance(s, (list, tuple)) else s for s in strides]
