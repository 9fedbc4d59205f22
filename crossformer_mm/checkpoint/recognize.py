"""Identify the network of a checkpoint by the names and shapes of its weights."""

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..models.archs import ARCHS
from .errors import CheckpointError, first_few, printable
from .weights import Shapes, Weights, shapes_of

# Keys of the weights: 'state_dict' in MMCV and MMEngine, 'model' in the original code;
# other files are state dicts. Moving averages are used only if there is nothing else.
AVERAGES = ('model_ema', 'state_dict_ema', 'ema_state_dict')
WEIGHTS = ('state_dict', 'model', *AVERAGES)

REPOSITORY = 'https://github.com/cheerss/CrossFormer'

# Prefixes of a classifier's norm and head, as published and in MMPretrain.
TO_MMPRETRAIN = {'norm.': 'neck.norm.', 'head.': 'head.fc.'}
TO_PUBLISHED = {theirs: published for published, theirs in TO_MMPRETRAIN.items()}
CLASSIFIER_PARTS = tuple(TO_MMPRETRAIN)
CLASSES = 1000
DETECTOR_PARTS = {'rpn_head', 'roi_head', 'bbox_head'}
SEGMENTOR_PARTS = {'decode_head'}

# Buffers of the first release; all can be computed from the sizes.
BUFFERS = {
    'attn.biases': 'buffer, the offsets inside a group, computed here when needed',
    'attn.relative_position_index': 'buffer, places among the offsets, not needed here',
    'attn_mask': 'buffer, the padding at one image size, computed here when needed',
}


@dataclass(frozen=True)
class Network:
    """The weights of a checkpoint, by part.

    Attributes:
        kind (str): 'backbone', 'classifier', 'detector' or 'segmentor'.
        variant (str, optional): Key of ``archs.ARCHS``; None if none is similar.
        backbone (dict[str, Tensor]): By the published names.
        rest (dict[str, Tensor]): Norm and head of a classifier by their published
            names; neck and heads of others by MMDetection's or MMSegmentation's.
        dropped (dict[str, str]): Why the other entries are not used, by name.
    """

    kind: str
    variant: str | None
    backbone: Weights
    rest: Weights
    dropped: dict[str, str]


def recognize(content: object, prefix: str = '') -> Network:
    """Find the network in the content of a checkpoint file.

    Args:
        content: Returned by ``read_checkpoint``.
        prefix (str): Prefix that the backbone's weights must have. Defaults to ''.

    Raises:
        CheckpointError: If it contains no CrossFormer, or more than one.
    """
    weights, dropped = _find_weights(content)
    backbone_prefix = _find_backbone(weights, prefix)
    # Neck and heads of a detector have the same prefix as its 'backbone.'.
    root = backbone_prefix.removesuffix('backbone.')
    backbone, rest = {}, {}
    for name, tensor in weights.items():
        in_backbone = name.startswith(backbone_prefix)
        short_name = name.removeprefix(backbone_prefix if in_backbone else root)
        if reason := reason_to_drop(short_name):
            dropped[name] = reason
        elif in_backbone and not short_name.startswith(CLASSIFIER_PARTS):
            backbone[short_name] = tensor
        elif in_backbone and backbone_prefix != root:
            dropped[name] = "a classifier's, not used by this network"
        elif name.startswith(root):
            rest[rename(short_name, TO_PUBLISHED)] = tensor
        else:
            dropped[name] = 'of another network'
    kind = _find_kind(rest)
    if kind == 'backbone':
        dropped.update(dict.fromkeys(rest, 'of a part that is not known'))
        rest = {}
    return Network(kind, nearest_variant(shapes_of(backbone)), backbone, rest, dropped)


def _find_weights(content: object) -> tuple[Weights, dict[str, str]]:
    """Return the tensors by name, and why other entries are dropped."""
    if not isinstance(content, dict):
        raise CheckpointError(f'holds no weights, but a {type(content).__name__}.')
    weights_key = next((key for key in WEIGHTS if _has_tensors(content.get(key))), None)
    found = content if weights_key is None else content[weights_key]
    if not _has_tensors(found):
        raise CheckpointError(
            f'holds no weights, but {first_few(content) or "nothing at all"}.'
        )
    dropped = {
        str(key): 'a moving average of the weights' if key in AVERAGES else 'no weights'
        for key in content
        if found is not content and key != weights_key
    }
    weights = {}
    for name, value in found.items():
        if isinstance(value, Tensor):
            # DataParallel and each wrapper around it add the prefix 'module.'.
            short = re.sub(r'^(module\.)+', '', str(name))
            if short in weights:
                raise CheckpointError(
                    f'holds {printable(short)} twice, with and without "module.": take '
                    'the one or the other out.'
                )
            weights[short] = value
        else:
            dropped[str(name)] = 'no tensor'
    return weights, dropped


def _has_tensors(value: object) -> bool:
    return isinstance(value, dict) and any(
        isinstance(item, Tensor) for item in value.values()
    )


def _find_backbone(weights: Weights, prefix: str) -> str:
    """Return the prefix of the backbone's weights."""
    # The cross-scale embedding: no other network has this name.
    part = 'patch_embed.projs.'
    all_prefixes = {name.partition(part)[0] for name in weights if part in name}
    if not all_prefixes:
        raise CheckpointError(
            f'holds no CrossFormer: there is no {part}0.weight, but '
            f'{first_few(weights)}.'
        )
    prefixes = sorted(start for start in all_prefixes if start.startswith(prefix))
    if not prefixes:
        others = ' or '.join(
            f'prefix={start!r}' if start else 'no prefix'
            for start in sorted(all_prefixes)
        )
        raise CheckpointError(
            f'holds no CrossFormer under prefix={prefix!r}: take {others}.'
        )
    if len(prefixes) > 1:
        raise CheckpointError(
            f'holds {len(prefixes)} CrossFormers, under {first_few(prefixes)}: '
            "choose one with init_cfg=dict(type='Pretrained', prefix=...)."
        )
    return prefixes[0]


def reason_to_drop(name: str) -> str | None:
    """Return why a weight is not used here, or None if it is."""
    if name.startswith('ema_'):
        return 'a moving average of the weights'
    return next((why for end, why in BUFFERS.items() if name.endswith(end)), None)


def rename(name: str, prefixes: dict[str, str]) -> str:
    """Replace the prefix of a name, if it is one of these."""
    for old, new in prefixes.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _find_kind(rest: Weights) -> str:
    parts = {name.partition('.')[0] for name in rest}
    if parts & SEGMENTOR_PARTS:
        return 'segmentor'
    if parts & DETECTOR_PARTS:
        return 'detector'
    return 'classifier' if 'head' in parts else 'backbone'


# The published networks


def backbone_shapes(variant: str, stages: int | None = None) -> Shapes:
    """Return the name and shape of each parameter of a published backbone.

    Args:
        variant (str): Key of ``archs.ARCHS``.
        stages (int, optional): Number of stages that are built. Defaults to all.
    """
    arch = ARCHS[variant]
    width, depths = arch['embed_dims'], arch['depths'][:stages]
    shapes: Shapes = {}

    def add(name: str, *shape: int) -> None:
        shapes[f'{name}.weight'] = shape
        shapes[f'{name}.bias'] = shape[:1]

    for i, size in enumerate((4, 8, 16, 32)):
        add(f'patch_embed.projs.{i}', width // 2 ** min(i + 1, 3), 3, size, size)
    add('patch_embed.norm', width)
    for stage, depth in enumerate(depths):
        for i in range(depth):
            block = f'layers.{stage}.blocks.{i}'
            bias_width = width // 16
            add(f'{block}.norm1', width)
            add(f'{block}.attn.pos.pos_proj', bias_width, 2)
            for layer in ('pos1', 'pos2', 'pos3'):
                outputs = arch['num_heads'][stage] if layer == 'pos3' else bias_width
                add(f'{block}.attn.pos.{layer}.0', bias_width)
                add(f'{block}.attn.pos.{layer}.2', outputs, bias_width)
            add(f'{block}.attn.qkv', 3 * width, width)
            add(f'{block}.attn.proj', width, width)
            add(f'{block}.norm2', width)
            add(f'{block}.mlp.fc1', 4 * width, width)
            add(f'{block}.mlp.fc2', width, 4 * width)
            if arch['with_acl'] and i % 3 == 2 and i < depth - 1:
                add(f'{block}.ex_conv', width, 1, 3, 3)
                add(f'{block}.ex_ln', width)
        if stage < len(depths) - 1:
            merging = f'layers.{stage}.downsample'
            add(f'{merging}.reductions.0', width, width, 2, 2)
            add(f'{merging}.reductions.1', width, width, 4, 4)
            add(f'{merging}.norm', width)
            width *= 2
    return shapes


def classifier_shapes(variant: str) -> Shapes:
    """Return the name and shape of each parameter of a published classifier."""
    width = ARCHS[variant]['embed_dims'] * 8
    return backbone_shapes(variant) | {
        'norm.weight': (width,),
        'norm.bias': (width,),
        'head.weight': (CLASSES, width),
        'head.bias': (CLASSES,),
    }


def stage_of(name: str) -> int:
    """Return the stage that needs a weight; for merging, the stage after it."""
    match = re.match(r'layers\.(\d{1,3})\.(downsample\.)?', name)
    return int(match[1]) + bool(match[2]) if match else 0


def count_stages(names: Iterable[str]) -> int:
    """Count the stages of a backbone; the last ones may not have been built."""
    return 1 + max(map(stage_of, names), default=0)


def nearest_variant(shapes: Shapes) -> str | None:
    """Return the published variant that shares the most names and shapes, if any.

    Args:
        shapes (dict[str, tuple]): Shapes of a backbone with the first or all stages.
    """
    stages = count_stages(shapes)
    expected = {arch: backbone_shapes(arch, stages) for arch in ARCHS}
    differences = {a: len(e.items() ^ shapes.items()) for a, e in expected.items()}
    nearest = min(differences, key=lambda arch: differences[arch])
    return nearest if differences[nearest] < len(expected[nearest]) / 2 else None


def full_name(variant: str | None) -> str:
    """Return the name of a variant in the papers."""
    if variant is None:
        return 'a CrossFormer of no published size'
    plus = '++' if variant.startswith('pp') else ''
    return f'CrossFormer{plus}-{variant.removeprefix("pp")}'


def backbone_file(arch: str) -> str:
    """Return the file name of a pretrained classifier in the configs.

    Args:
        arch (str): A key of ``archs.ARCHS``.
    """
    generation = 'pp' if arch.startswith('pp') else ''
    return f'backbone-crossformer{generation}-{arch[-1].lower()}.pth'


def where_published(arch: str | None) -> str:
    """Return a sentence with the address of the published classifier.

    Args:
        arch (str, optional): A key of ``archs.ARCHS``; None for any other network.
    """
    if arch is None:
        return f'The published files: see {REPOSITORY}.'
    return f'The published {full_name(arch)}: {published_files()[arch].address} .'


class Published(NamedTuple):
    """A file that the authors published.

    Args:
        kind (str): Type of model: 'classifier', 'detector' or 'segmentor'.
        variant (str): Key of ``archs.ARCHS``.
        parameters (str): Number of parameters in millions, as published.
        drive (str): Id on Google Drive; empty if it is not there.
        baidu (str): Name of the share on BaiduCloud.
        key (str): Access key of that share.
    """

    kind: str
    variant: str
    parameters: str
    drive: str
    baidu: str
    key: str

    @property
    def address(self) -> str:
        """Address of the download."""
        if self.drive:
            return f'https://drive.google.com/file/d/{self.drive}'
        return f'https://pan.baidu.com/s/{self.baidu} (key {self.key})'


def published_files() -> dict[str, Published]:
    """Read the table of published files, from the READMEs of the main branch.

    Returns:
        dict[str, Published]: By key of ``archs.ARCHS``, or by the name of a config.
    """
    with Path(__file__).with_name('published.csv').open(newline='') as file:
        return {row.pop('name'): Published(**row) for row in csv.DictReader(file)}
