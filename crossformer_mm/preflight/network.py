"""Normalization, pretrained file, widths and strides."""

import os.path as osp
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from ..checkpoint import CheckpointError, PretrainedBackbone
from ..engine.checks import is_missing
from ..models import CrossFormer
from ..models.init_cfg import as_list, is_pretrained
from ..swap.dry_run import build_backbone, image_side, outputs_of
from ..swap.rules import normalized
from .datasets import listed
from .finding import Finding


def check_network(cfg: Config) -> Iterator[Finding]:
    """Whether the backbone, its file, and what follows it belong together."""
    backbone = cfg.model.get('backbone')
    if not backbone:
        yield Finding('note', 'backbone', f'{cfg.model.type} has none of its own')
        return
    try:
        network = build_backbone(cfg)
        outputs = outputs_of(network, backbone)
    except Exception as error:
        found = f'{backbone.type}: {type(error).__name__}: {error}'
        yield Finding(
            'FAIL', 'backbone', found.splitlines()[0], 'correct its arguments'
        )
        return
    yield from check_normalization(cfg, isinstance(network, CrossFormer))
    yield from check_pretrained(backbone, network)
    yield from check_widths(cfg, [width for width, _ in outputs])


def check_normalization(cfg: Config, ours: bool) -> Iterator[Finding]:
    """Whether images are normalized as in pretraining."""
    given = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    mean = given.get('mean')
    if mean and 0 < max(mean) <= 1:
        found = f'mean={list(mean)} is of images from 0 to 1, these go to 255'
        mend = ', '.join(f'{key}={value}' for key, value in normalized().items())
        yield Finding('FAIL', 'normalization', found, mend)
        return
    backbone = cfg.model.backbone
    files = pretrained_files(backbone) + [cfg.model.get('pretrained') or '']
    torchvision = any(str(file).startswith('torchvision://') for file in files)
    if not (ours and any(files)) and not torchvision:
        return
    for key, value in normalized().items():
        if given.get(key) != value:
            found = f'data_preprocessor.{key} is {given.get(key)}'
            mend = f'{key}={value}, as in pretraining'
            yield Finding('FAIL', 'normalization', found, mend)


def pretrained_files(backbone: dict[str, Any]) -> list[str]:
    """List the files that the init_cfg of a backbone names."""
    entries = as_list(backbone.get('init_cfg'))
    return [entry['checkpoint'] for entry in entries if is_pretrained(entry)]


def check_pretrained(backbone: dict[str, Any], network: nn.Module) -> Iterator[Finding]:
    """Whether the pretrained file is there, of this backbone, and loads whole."""
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
                # Its lines are written as one.
                told, _, mend = str(error).partition('\\n')
                mend = mend or 'choose the file of this backbone'
                yield Finding('FAIL', 'pretrained', told, mend)
            else:
                yield Finding('ok', 'pretrained', f'{path} loads whole')
        elif is_missing(path, [None]):
            yield Finding('FAIL', 'pretrained', f'no {path}', 'put it there')


def check_widths(cfg: Config, widths: list[int]) -> Iterator[Finding]:
    """Whether the neck, or a head without one, takes the widths of the backbone."""
    neck = cfg.model.get('neck')
    neck = neck[0] if isinstance(neck, list) else neck
    if neck:
        parts = {'model.neck': neck}
    else:
        parts = {}
        for key in ('decode_head', 'auxiliary_head'):
            for head in listed(cfg.model.get(key)):
                parts[f'model.{key}'] = head
    for name, part in parts.items():
        given, index = part.get('in_channels'), part.get('in_index')
        if isinstance(given, (list, tuple)):
            taken = (
                [widths[i] for i in index]
                if isinstance(index, (list, tuple))
                else widths
            )
            fits = sorted(given) == sorted(taken)  # YOLOv3's are in reverse
        elif isinstance(given, int) and type(index) is int and index < len(widths):
            taken = widths[index]
            fits = given == taken
        elif isinstance(given, int):
            taken, fits = widths[-1], given in widths
        else:
            continue
        if not fits:
            given = given if isinstance(given, int) else list(given)
            found = f'{name}.in_channels is {given}, the backbone returns {widths}'
            yield Finding('FAIL', 'widths', found, f'set it to {taken}')


def check_strides(cfg: Config, model: nn.Module) -> Iterator[Finding]:
    """Whether anchors, points and regions have the strides of the maps they lie on."""
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
            # Levels of a few pixels are rounded.
            if size >= 4 and not 0.7 < size * stride / side < 1.5:
                found = f'model.{name}, level {level}: stride {stride}, '
                found += f'the map has {round(side / size)}'
                mend = 'set its strides, or out_indices of the backbone'
                yield Finding('FAIL', 'strides', found, mend)


def level_strides(module: nn.Module) -> list[float]:
    """Return the strides that a head or an extractor of regions is built for."""
    if hasattr(module, 'featmap_strides'):
        return list(module.featmap_strides)
    generator = getattr(module, 'prior_generator', None)
    strides = getattr(generator, 'strides', [])
    return [s[0] if isinstance(s, (list, tuple)) else s for s in strides]
