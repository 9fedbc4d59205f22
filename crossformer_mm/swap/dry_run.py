"""Run a model on a synthetic batch: one training step, one prediction."""

import math
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor, nn

from ..models.init_cfg import split_init_cfg

SHAPES = ('img_shape', 'ori_shape', 'pad_shape')
OBJECTS = 8  # per image; COCO has 7.3 on average
SIDE = 384  # pixels: DDOD's kernels need three at stride 128


class StepResult(NamedTuple):
    """Result of a training step.

    Attributes:
        losses: The losses by name.
        without_gradient: Names of the parameters that get no gradient.
    """

    losses: dict[str, float]
    without_gradient: list[str]

    @property
    def not_finite(self) -> list[str]:
        """Names of the losses that are not finite."""
        return [name for name, x in self.losses.items() if not math.isfinite(x)]


class Outputs(NamedTuple):
    """Widths and strides of a backbone's outputs, from first to last."""

    widths: list[int]
    strides: list[int]


def build_model(cfg: Config) -> BaseModel:
    """Build the model of a config with random weights, without reading files."""
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    given = without_pretrained(cfg.model.to_dict())
    if 'data_preprocessor' not in given and 'data_preprocessor' in cfg:
        given['data_preprocessor'] = cfg.data_preprocessor
    model = MODELS.build(given)
    model.init_weights()
    return model


def without_pretrained(node: Any) -> Any:
    """Return a part of a config without its pretrained files."""
    if isinstance(node, (list, tuple)):
        return type(node)([without_pretrained(value) for value in node])
    if not isinstance(node, dict):
        return node
    kept = ConfigDict({key: without_pretrained(value) for key, value in node.items()})
    if kept.get('pretrained'):  # a path, or True for timm
        kept['pretrained'] = None
    if 'init_cfg' in kept:
        _, others = split_init_cfg(kept['init_cfg'])
        kept['init_cfg'] = others or None
    return kept


def step(model: BaseModel, batch: dict[str, list[Any]]) -> StepResult:
    """Run the model forward and backward on a batch from a data loader."""
    model.train()
    for module in model.modules():
        # A block that is dropped in all images gets no gradient.
        if type(module).__name__ == 'DropPath':
            module.eval()
    model.zero_grad()
    MessageHub.get_current_instance().update_info('epoch', 0)  # read by TOOD
    data = model.data_preprocessor(batch, True)
    total, logged = model.parse_losses(model(**data, mode='loss'))
    total.backward()
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    return StepResult({name: float(value) for name, value in logged.items()}, without)


@torch.no_grad()
def predict(model: BaseModel, batch: dict[str, list[Any]]) -> list[BaseDataElement]:
    """Run the model in test mode on a batch from a data loader."""
    model.eval()
    return model.test_step(batch)


def image_side(cfg: Config, side: int = SIDE) -> int:
    """Return the side of images for a model; SSD requires a fixed one."""
    sizes = [n for n in find_keys(cfg.model, 'input_size') if type(n) is int]
    return max([side, *sizes])


def small_model(
    cfg: Config, side: int, images: int = 2
) -> tuple[BaseModel, dict[str, list[Any]]]:
    """Build a model whose steps take seconds, and random images for it.

    Args:
        cfg (Config): Config of the model; modified for small images.
        side (int): Minimum height and width of the images.
        images (int): The size of the batch. Defaults to 2.
    """
    side = image_side(cfg, side)
    make_small(cfg, side)
    return build_model(cfg), make_batch(cfg, side, images)


def make_batch(cfg: Config, side: int, images: int) -> dict[str, list[Any]]:
    """Make random images with random objects, in the format of a data loader.

    Args:
        cfg (Config): Sets whether to make boxes or label maps, and their classes.
        side (int): Height and width of the images.
        images (int): The size of the batch.
    """
    make = segmentation_sample if cfg.default_scope == 'mmseg' else detection_sample
    counts = [
        n for n in find_keys(cfg.model, 'num_classes') if type(n) is int and n > 0
    ]
    counts += find_keys(cfg.model, 'num_things_classes')
    samples = [make(side, side, min(counts, default=1)) for _ in range(images)]
    if 'roi_head' in cfg.model and 'rpn_head' not in cfg.model:
        for sample in samples:  # Fast R-CNN needs proposals
            boxes = sample.gt_instances.bboxes.clone()
            sample.proposals = InstanceData(bboxes=boxes, scores=torch.ones(OBJECTS))
    inputs = torch.randint(256, (images, 3, side, side), dtype=torch.uint8)
    return dict(inputs=list(inputs), data_samples=samples)


def make_small(cfg: Config, side: int) -> None:
    """Change a config so that a step takes seconds: small images, fewer samples."""
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor')
    if preprocessor:
        preprocessor.pop('batch_augments', None)  # pad to 1000 pixels
    if cfg.default_scope == 'mmseg' and preprocessor:
        preprocessor.pop('size_divisor', None)
        preprocessor['size'] = (side, side)
    for sampler in find_keys(cfg.model, 'sampler'):
        if isinstance(sampler, dict) and 'num' in sampler:  # of regions
            sampler['num'] = min(sampler['num'], 64)


def detection_sample(height: int, width: int, classes: int = 80) -> BaseDataElement:
    """Make random boxes, masks that fill them, and a map of two classes."""
    from mmdet.structures import DetDataSample

    rest = dict(scale_factor=(1.0, 1.0), flip=False, img_id=0)
    return DetDataSample(
        metainfo=dict.fromkeys(SHAPES, (height, width)) | rest,
        gt_instances=random_objects(height, width, classes),
        ignored_instances=InstanceData(bboxes=torch.zeros(0, 4)),
        gt_sem_seg=PixelData(sem_seg=torch.randint(2, (1, height, width))),
    )


def random_objects(height: int, width: int, classes: int) -> InstanceData:
    """Make random boxes, and masks that fill them."""
    from mmdet.structures.mask import BitmapMasks

    corners = torch.rand(OBJECTS, 2) * 0.7
    boxes = torch.cat([corners, corners + 0.05 + torch.rand(OBJECTS, 2) * 0.25], 1)
    boxes *= torch.tensor([width, height] * 2)
    masks = np.zeros((OBJECTS, height, width), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist()):
        mask[top:bottom, left:right] = 1
    return InstanceData(
        bboxes=boxes,
        labels=torch.randint(classes, (OBJECTS,)),
        masks=BitmapMasks(masks, height, width),
    )


def segmentation_sample(height: int, width: int, classes: int = 150) -> BaseDataElement:
    """Make random labels."""
    from mmseg.structures import SegDataSample

    labels = torch.randint(classes, (1, height, width))
    return SegDataSample(
        metainfo=dict.fromkeys(SHAPES, (height, width)),
        gt_sem_seg=PixelData(data=labels),
    )


def build_backbone(cfg: Config) -> nn.Module:
    """Build the backbone of a config with random weights, without reading files."""
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    return MODELS.build(without_pretrained(cfg.model.backbone))


def backbone_outputs(network: nn.Module, config: dict[str, Any]) -> Outputs:
    """Return the outputs of a backbone built from a config.

    Raises:
        ValueError: If it does not return a sequence of maps.
    """
    network.eval()  # MMDetection's ResNet returns None here
    side = config.get('img_size', SIDE)
    side = side if type(side) is int else side[0]
    with torch.no_grad():
        maps = network(torch.zeros(1, 3, side, side))
    if not isinstance(maps, (list, tuple)) or not all(
        isinstance(m, Tensor) and m.ndim == 4 for m in maps
    ):
        raise ValueError(f'{config["type"]} does not return a sequence of maps')
    return Outputs([m.shape[1] for m in maps], [round(side / m.shape[3]) for m in maps])


def first_line(error: BaseException) -> str:
    """Return the type of an error and the first 200 letters of its first line."""
    line = (str(error).strip() or '-').splitlines()[0]
    return f'{type(error).__name__}: {textwrap.shorten(line, 200)}'


def iter_dicts(node: object, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """List every dict inside a config with its path, such as 'model.neck[0]'."""
    if isinstance(node, dict):
        yield path, node
        for key, value in node.items():
            yield from iter_dicts(value, f'{path}.{key}')
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from iter_dicts(value, f'{path}[{i}]')


def find_keys(node: object, wanted: str) -> list[Any]:
    """List the values of a key in all dicts inside a config."""
    return [part[wanted] for _, part in iter_dicts(node, '') if wanted in part]
