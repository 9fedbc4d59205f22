"""``crossformer-config swap``: replace the backbone of a config by a CrossFormer.

The stock backbone is built and run on an empty image. The strides of its outputs decide
which outputs of CrossFormer replace them; their widths are then replaced in the neck
and the heads.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..checkpoint.recognize import backbone_file
from ..engine.checks import type_name
from ..models.archs import ARCHS, NAMES
from .dry_run import (
    SIDE,
    Outputs,
    StepResult,
    backbone_outputs,
    build_backbone,
    first_line,
    small_model,
    step,
)
from .write_config import Change, config_text

STRIDES = [4, 8, 16, 32]  # of the four outputs of CrossFormer
# Backbones with several branches or stacks, which their heads require.
MULTI_BRANCH = (
    'BiSeNetV1',
    'BiSeNetV2',
    'DDRNet',
    'DetectoRS_ResNeXt',
    'DetectoRS_ResNet',
    'FastSCNN',
    'HourglassNet',
    'ICNet',
    'PIDNet',
    'STDCContextPathNet',
    'TridentResNet',
)


class SwapError(ValueError):
    """The backbone of a config cannot be replaced; the message says why."""


def swap(config: str, backbone: str, out: Path, side: int = SIDE) -> StepResult:
    """Write a config that inherits another one, with a CrossFormer as its backbone.

    Args:
        config (str): A path, or a config of a package such as ``mmdet::a/b.py``.
        backbone (str): A registered name, such as 'CrossFormer_S'.
        out (Path): The file, which must not exist yet.
        side (int): Height and width of the synthetic images. Defaults to 384.

    Returns:
        StepResult: Result of a training step on two synthetic images.

    Raises:
        SwapError: If the config cannot be read, its backbone cannot be replaced, or the
            new model does not run. Nothing is written then.
    """
    if out.suffix != '.py':
        raise SwapError(f'--out must end with .py, got {out}')
    if out.exists():
        raise SwapError(f'{out} exists already: name another file, or remove it')
    if '::' in config:
        base = config
    elif Path(config).is_file():
        base = os.path.relpath(config, out.parent)
    else:
        raise SwapError('there is no such file')
    text = config_text(base, changes(read(config), backbone))
    # Hidden until the model has run.
    draft = out.with_name(f'.{out.name}')
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text)
        result = try_model(Config.fromfile(draft), side)
        draft.rename(out)
    except OSError as error:
        raise SwapError(f'{out} cannot be written: {error}') from error
    finally:
        draft.unlink(missing_ok=True)
    return result


def read(config: str) -> Config:
    """Read a config in the same way as a config that inherits it."""
    package, in_package, name = config.partition('::')
    if in_package and not re.match(r'\w+/', name):
        raise SwapError(
            f'MMEngine reads only {package}::FOLDER/NAME.py, with letters, digits '
            f'and "_" in FOLDER: give the path of the file, which lies in '
            f'.mim/configs of the installed {package}'
        )
    base = config if in_package else os.path.abspath(config)
    try:
        return Config.fromstring(f'_base_ = {base!r}', '.py')
    except Exception as error:  # the file may raise anything
        raise SwapError(f'it cannot be read: {first_line(error)}') from error


def try_model(cfg: Config, side: int) -> StepResult:
    """Run one training step of a model on two synthetic images."""
    try:
        result = step(*small_model(cfg, side))
    except Exception as error:
        raise SwapError(
            f'{cfg.model.type} does not run with it: {first_line(error)}. '
            'Nothing was written.'
        ) from error
    if result.not_finite:
        raise SwapError(
            f'{cfg.model.type} has a loss that is not finite: {result.losses}'
        )
    return result


def changes(cfg: Config, backbone: str) -> list[Change]:
    """List the changes to the base config.

    Raises:
        SwapError: If the backbone cannot be replaced.
    """
    stock = stock_outputs(cfg)
    given, notes = backbone_config(backbone, stock)
    dims = ARCHS[NAMES[backbone]]['embed_dims']
    widths = [dims * 2**i for i in given.get('out_indices', range(4))]
    imports = cfg.get('custom_imports', {}).get('imports', [])
    imports = [imports] if isinstance(imports, str) else imports
    found = [
        Change(
            ('custom_imports',),
            dict(imports=[*imports, 'crossformer_mm'], allow_failed_imports=False),
        ),
        Change(('runner_type',), 'CheckedRunner'),
    ]
    if cfg.model.get('pretrained'):
        found.append(Change(('model', 'pretrained'), None))
    found += normalization_changes(cfg)
    found.append(Change(('model', 'backbone'), dict(_delete_=True, **given), notes))
    found += list(model_width_changes(cfg.model, stock.widths, widths))
    if cfg.get('load_from'):
        note = 'The base starts from weights of a model with its own backbone.'
        found.append(Change(('load_from',), None, note))
    return [*found, *optimizer_changes(cfg)]


def stock_outputs(cfg: Config) -> Outputs:
    """Return the widths and strides of the outputs of a config's backbone.

    Raises:
        SwapError: If there is none, or its outputs are not a pyramid.
    """
    model = cfg.get('model')
    if not model:
        raise SwapError('it has no model: name the config of a training')
    if 'backbone' not in model:
        parts = [
            key
            for key, value in model.items()
            if isinstance(value, dict) and key != 'data_preprocessor'
        ]
        raise SwapError(
            f'{model.type} has no backbone of its own, only {", ".join(parts)}: if it '
            'wraps another model, swap the config of that one'
        )
    kind = model.backbone.type
    if kind in MULTI_BRANCH:
        raise SwapError(
            f'{kind} has several branches, and {model.type} is built for them'
        )
    try:
        outputs = backbone_outputs(build_backbone(cfg), model.backbone)
    except Exception as error:
        raise SwapError(
            f'its own backbone, {kind}, does not run, so its widths are unknown: '
            f'{first_line(error)}'
        ) from error
    if outputs.strides != sorted(outputs.strides):
        raise SwapError(
            f'{kind} returns maps that grow (strides {outputs.strides}), which the '
            f'heads of {model.type} are built for'
        )
    count = len(outputs.strides)
    if count > len(STRIDES):
        raise SwapError(f'{kind} returns {count} maps, CrossFormer has {len(STRIDES)}')
    return outputs


def backbone_config(name: str, stock: Outputs) -> tuple[dict[str, Any], str]:
    """Return the config of a CrossFormer, and a note on the choice of its outputs."""
    count = len(stock.strides)
    matches = len(set(stock.strides)) == count and set(stock.strides) <= set(STRIDES)
    if matches:
        indices = [STRIDES.index(stride) for stride in stock.strides]
    else:
        indices = list(range(4))[-count:]
    ours = [STRIDES[i] for i in indices]
    note = ''
    if not matches:
        note = (
            f'The strides of its outputs are {", ".join(map(str, ours))}, those of the '
            f'stock backbone {", ".join(map(str, stock.strides))}.'
        )
    elif count < 4:
        note = f'The outputs at strides {", ".join(map(str, ours))}, as in the base.'
    config: dict[str, Any] = dict(
        type=name, group_size=[7, 7, 7, 7], crs_interval=[8, 4, 2, 1]
    )
    if count < 4:
        config['out_indices'] = tuple(indices)
    checkpoint = f'pretrained/{backbone_file(NAMES[name])}'
    config['init_cfg'] = dict(type='Pretrained', checkpoint=checkpoint)
    return config, note


def model_width_changes(
    model: dict[str, Any], old: list[int], new: list[int]
) -> Iterator[Change]:
    """List the changed widths in the neck, or in all heads if there is no neck."""
    if pyramid := pyramid_widths(model):
        note = 'The neck of the base makes a pyramid, which CrossFormer has already.'
        yield Change(('model', 'neck'), None, note)
        old = pyramid
    elif model.get('neck'):
        is_list = isinstance(model['neck'], list)
        # The first of several necks follows the backbone.
        first = model['neck'][0] if is_list else model['neck']
        path = ('model', 'neck', 0) if is_list else ('model', 'neck')
        yield from width_changes(first, path, old, new)
        if first.get('type') == 'JPU':  # passes the backbone's maps on to this head
            head = model.get('auxiliary_head')
            yield from width_changes(head, ('model', 'auxiliary_head'), old, new)
        if first.get('type') == 'SSDNeck':
            count = len(new)
            for keys in (('neck', 'out_channels'), ('bbox_head', 'in_channels')):
                rest = model[keys[0]][keys[1]][count:]
                yield Change(('model', *keys), (*new, *rest))
        return
    for key, value in model.items():
        others = ('backbone', 'neck', 'data_preprocessor', 'train_cfg', 'test_cfg')
        if key not in others:
            yield from width_changes(value, ('model', key), old, new)


def pyramid_widths(model: dict[str, Any]) -> list[int]:
    """Return the widths of the pyramid that a neck builds from a ViT's outputs."""
    neck: Any = model.get('neck')
    kind = type_name(neck) if isinstance(neck, dict) else ''
    if kind == 'MultiLevelNeck':
        return [neck.out_channels] * len(neck.scales)
    if kind == 'Feature2Pyramid':
        return [neck.embed_dim] * len(neck.rescales)
    return []


def width_changes(
    node: object, path: tuple[str | int, ...], old: list[int], new: list[int]
) -> Iterator[Change]:
    """List the changed widths of the backbone's outputs in a part of the model."""
    if isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from width_changes(value, (*path, i), old, new)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == 'in_channels':
                width = translate(value, node.get('in_index'), old, new)
                if width != value:
                    yield Change((*path, key), width)
                    # A head without convolutions has no other width of its own.
                    if node.get('num_convs') == 0 and node.get('channels') == value:
                        yield Change((*path, 'channels'), width)
            elif key == 'c1_in_channels':
                if value == old[0] != new[0]:
                    yield Change((*path, key), new[0])
            else:
                yield from width_changes(value, (*path, key), old, new)


def translate(value: Any, index: Any, old: list[int], new: list[int]) -> Any:
    """Return the new width or widths for an ``in_channels`` and its ``in_index``."""
    if isinstance(value, int):
        place = index if isinstance(index, int) else -1
        return new[place] if value == old[place] else value
    if not isinstance(value, (list, tuple)):
        return value
    given = list(value)
    if given == old:
        return type(value)(new)
    if isinstance(index, (list, tuple)) and len(index) == len(given):
        if given == [old[i] for i in index]:
            return type(value)(new[i] for i in index)
    elif given and set(given) <= set(old):
        return type(value)(new[old.index(width)] for width in given)
    return value


def normalization_changes(cfg: Config) -> Iterator[Change]:
    """Normalize images as in pretraining: RGB, ImageNet mean and std."""
    inside = 'data_preprocessor' in cfg.model
    path = ('model',) * inside + ('data_preprocessor',)
    given = cfg.model.data_preprocessor if inside else cfg.get('data_preprocessor')
    wanted = normalized()
    if given is None or all(given.get(k) == v for k, v in wanted.items()):
        return
    if given.get('rgb_to_bgr'):
        wanted['rgb_to_bgr'] = False
    note = (
        'RGB with the mean and deviation of ImageNet, as the backbone was pretrained.'
    )
    yield Change(path, wanted, note)


def normalized() -> dict[str, Any]:
    """Return the normalization of the pretraining, for a data preprocessor."""
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    return dict(mean=mean, std=std, bgr_to_rgb=True)


def optimizer_changes(cfg: Config) -> Iterator[Change]:
    """Replace SGD by AdamW, and layer decay by the one for CrossFormer."""
    wrapper = cfg.get('optim_wrapper', {})
    path = ('optim_wrapper',)
    optimizer = wrapper.get('optimizer', {})
    if optimizer.get('type') == 'SGD':
        # As in our configs of Mask R-CNN and UPerNet.
        rate, decay = (6e-5, 0.01) if cfg.default_scope == 'mmseg' else (1e-4, 1e-4)
        adamw = dict(_delete_=True, type='AdamW', lr=rate, weight_decay=decay)
        note = (
            'AdamW instead of SGD, with the learning rate and weight decay published '
            'for CrossFormer and a batch of 16.'
        )
        if wrapper.get('clip_grad'):
            note += ' The gradient clipping of the base is kept.'
        yield Change((*path, 'optimizer'), adamw, note)
        if cfg.default_scope == 'mmseg' and 'paramwise_cfg' not in wrapper:
            yield Change((*path, 'paramwise_cfg'), dict(norm_decay_mult=0.0))
        if cfg.get('auto_scale_lr', {}).get('base_batch_size', 16) != 16:
            yield Change(('auto_scale_lr',), dict(base_batch_size=16))
    constructor = str(wrapper.get('constructor', ''))
    if 'Decay' in constructor and 'LayerDecayOptimWrapper' not in constructor:
        given = wrapper.get('paramwise_cfg', {})
        rate = given.get('decay_rate', given.get('layer_decay_rate'))
        note = f'{constructor} does not know the layers of CrossFormer.'
        ours = 'LayerDecayOptimWrapperConstructor'
        yield Change((*path, 'constructor'), ours, note)
        rates = dict(_delete_=True, layer_decay_rate=rate)
        yield Change((*path, 'paramwise_cfg'), rates)
