"""Which network the names and shapes of a checkpoint belong to."""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor

from ..models.zoo import ARCHS
from .reader import CheckpointError

Shapes = dict[str, tuple[int, ...]]

# Where files keep their weights, in this order: the original's and timm's 'model',
# MMCV's and MMEngine's 'state_dict'. A copy is taken where there is nothing else.
COPIES = ('model_ema', 'state_dict_ema', 'ema_state_dict')
WEIGHTS = ('state_dict', 'model', *COPIES)
# The first names of the parts in MMDetection and MMSegmentation.
DETECTOR_HEADS = {'rpn_head', 'roi_head', 'bbox_head'}
SEGMENTOR_HEADS = {'decode_head'}
# A classifier's norm and head: their names in MMPretrain and the published ones.
MMPRETRAIN_NAMES = {'neck.norm.': 'norm.', 'head.fc.': 'head.'}
HEAD = tuple(MMPRETRAIN_NAMES.values())
# What files hold beside parameters; the first release kept the first three.
BUFFERS = {
    'attn.biases': 'table of the offsets in a group, computed when needed',
    'attn.relative_position_index': 'places in that table, computed when needed',
    'attn_mask': 'mask of the padding for one image size, computed when needed',
}
EMA_PREFIX = 'ema_'


@dataclass
class Network:
    """The weights of a checkpoint, sorted.

    Attributes:
        kind (str): 'backbone', 'classifier', 'detector' or 'segmentor'.
        variant (str, optional): Key of ``zoo.ARCHS``; None if it is like no other.
        backbone (dict[str, Tensor]): By the published names.
        rest (dict[str, Tensor]): Norm and head of a classifier by the published
            names; neck and heads of others by those of MMDetection or MMSegmentation.
        dropped (dict[str, str]): What is of no use, name -> why.
    """

    kind: str
    variant: str | None
    backbone: dict[str, Tensor]
    rest: dict[str, Tensor] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)


def recognize(content: Any, prefix: str = '') -> Network:
    """Find the network in what a checkpoint file holds.

    Args:
        content: As ``read_checkpoint`` returns it.
        prefix (str): What the names of the backbone's weights start with, where a
            file holds several. Defaults to ''.

    Raises:
        CheckpointError: If there is no CrossFormer in it, or more than one.
    """
    weights, dropped = _find_weights(content)
    prefix = _find_backbone(weights, prefix)
    backbone, head, rest = {}, {}, {}
    root = prefix.removesuffix('backbone.')
    for name, tensor in weights.items():
        if reason := _useless(name):
            dropped[name] = reason
        elif name.startswith(prefix):
            name = name.removeprefix(prefix)
            (head if name.startswith(HEAD) else backbone)[name] = tensor
        elif name.startswith(root):
            rest[name.removeprefix(root)] = tensor
        else:
            dropped[name] = 'of another network'
    ...
