"""Networks for `export_onnx.py`, from the input image to the final results.

Each reimplements the test path of MMDetection or MMSegmentation with the modules of the
model. `at_any_size` replaces forward methods that would fix the image size to
that of the example.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossformer_mm.models.attention import GroupAttention
from crossformer_mm.ops.blockwise_attention import expand_bias
from crossformer_mm.ops.partition import Grouping, ceil_div

COVERED = (
    'covered are segmentors of mmseg in whole mode, one-stage detectors with the test '
    'path of RetinaNet (ATSS, FCOS), Mask R-CNN, Faster R-CNN and their Cascades'
)
OPSET = 18  # the lowest that torch's exporter supports
LEAST_SIDE = 64  # of an image, in pixels


class NotCovered(Exception):
    """Raised for a network or a setting that cannot be exported."""


class Segmentor(nn.Module):
    """Map images ``[B, 3, H, W]`` to labels ``[B, H, W]`` and optionally scores."""

    def __init__(self, model: nn.Module, with_scores: bool) -> None:
        super().__init__()
        self.model, self.with_scores = model, with_scores
        if model.test_cfg.get('mode', 'whole') != 'whole':
            raise NotCovered(
                f'test_cfg.mode={model.test_cfg.mode!r} is not covered: set it "whole"'
            )
        if model.data_preprocessor.test_cfg:
            raise NotCovered('data_preprocessor.test_cfg is not covered: remove it')
        self.outputs = ['labels', 'scores'][: 1 + with_scores]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return labels, and scores if requested."""
        x = normalize(self.model.data_preprocessor, images)
        x = self.model.encode_decode(x, [dict(img_shape=x.shape[2:])])
        if self.model.out_channels == 1:
            scores = x.sigmoid()
            labels = (scores > self.model.decode_head.threshold)[:, 0].long()
        else:
            scores, labels = x.softmax(1), x.argmax(1)
        return (labels, scores) if self.with_scores else (labels,)


class Detector(nn.Module):
    """Map an image ``[1, 3, H, W]`` to the boxes of a one-stage detector."""

    outputs = ['boxes', 'scores', 'labels']

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        head = getattr(model, 'roi_head', None) or model.bbox_head
        self.score_threshold = head.test_cfg.score_thr

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return boxes ``[N, 4]``, scores ``[N]`` and labels ``[N]``."""
        head, size = self.model.bbox_head, images.shape[2:]
        found = candidates(head, self.features(images), size)
        return suppress(*found, head.test_cfg)

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """Normalize, pad and run backbone and neck."""
        before = self.model.data_preprocessor
        x, divisor = normalize(before, images), before.pad_size_divisor
        height, width = x.shape[2:]
        # Use plain symbols: the exporter makes no assumptions about them, so a level
        # may have one pixel, and a map may be smaller than a group.
        least = ceil_div(LEAST_SIDE, divisor)
        down, across = (
            as_size(torch.scalar_tensor(ceil_div(n, divisor)), least)
            for n in (height, width)
        )
        padding = (0, across * divisor - width, 0, down * divisor - height)
        return self.model.extract_feat(F.pad(x, padding, value=before.pad_value))


class TwoStageDetector(Detector):
    """Map an image to the boxes, and masks if any, of a (Cascade) R-CNN."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.outputs = Detector.outputs + ['masks'] * model.roi_head.with_mask

    def stages(self, part: str) -> list[nn.Module]:
        """Return the heads or extractors of all stages."""
        found = getattr(self.model.roi_head, part)
        return list(found) if isinstance(found, nn.ModuleList) else [found]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of :class:`Detector`, and masks ``[N, 28, 28]``."""
        rpn, cfg = self.model.rpn_head, self.model.roi_head.test_cfg
        size, maps = images.shape[2:], self.features(images)
        boxes, _, _ = suppress(*candidates(rpn, maps, size), rpn.test_cfg)
        votes, heads = [], self.stages('bbox_head')
        for head, extractor in zip(heads, self.stages('bbox_roi_extractor')):
            vote, deltas = head(extract(extractor, maps, boxes))
            votes.append(vote)
            if head is not heads[-1]:
                best = vote[:, :-1].argmax(1)
                boxes = head.regress_by_class(boxes, best, deltas, dict(img_shape=size))
        scores = (sum(votes) / len(votes)).softmax(-1)[:, :-1]
        count, classes = scores.shape
        each = 1 if head.reg_class_agnostic else classes
        boxes = boxes[:, None].expand(-1, each, -1).reshape(-1, 4)
        boxes = head.bbox_coder.decode(boxes, deltas.reshape(-1, 4), max_shape=size)
        boxes = boxes.reshape(count, each, 4).expand(-1, classes, -1).reshape(-1, 4)
        labels = torch.arange(classes).expand(count, -1).reshape(-1)
        scores = torch.where(scores > cfg.score_thr, scores, -1).reshape(-1)
        found = suppress(boxes, scores, labels, cfg)
        if not self.model.roi_head.with_mask:
            return found
        return *found, self.masks(maps, found[0], found[2])

    def masks(self, maps: tuple[Tensor, ...], boxes: Tensor, labels: Tensor) -> Tensor:
        """Return the probability that each point of a box belongs to the object."""
        masks = []
        for head, extractor in zip(
            self.stages('mask_head'), self.stages('mask_roi_extractor')
        ):
            x = head(extract(extractor, maps, boxes)).sigmoid()
            channel = labels * (not head.class_agnostic)
            place = channel[:, None, None, None].expand(-1, -1, *x.shape[2:])
            masks.append(x.gather(1, place)[:, 0])
        return sum(masks) / len(masks)


def whole_network(model: nn.Module, with_scores: bool) -> nn.Module:
    """Wrap a model as a network from the image to the results.

    Raises:
        NotCovered: If there is no wrapper for the model.
    """
    if hasattr(model, 'decode_head'):
        return Segmentor(model, with_scores)
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead

    path = ('predict_by_feat', '_predict_by_feat_single', '_bbox_post_process')
    head, roi = getattr(model, 'bbox_head', None), getattr(model, 'roi_head', None)
    if type(roi).__name__ in ('StandardRoIHead', 'CascadeRoIHead'):
        wrapper, dense, cfgs = TwoStageDetector, model.rpn_head, [roi.test_cfg]
    elif isinstance(head, BaseDenseHead) and all(
        getattr(type(head), name) is getattr(BaseDenseHead, name) for name in path
    ):
        wrapper, dense, cfgs = Detector, head, []
    else:
        name = type(roi or head or model).__name__
        raise NotCovered(f'{name} is not covered: {COVERED}')
    nms = [cfg.nms.type for cfg in (dense.test_cfg, *cfgs)]
    if not dense.use_sigmoid_cls or set(nms) != {'nms'}:
        raise NotCovered(
            f'only scores by sigmoid and nms of type "nms" are covered; {COVERED}'
        )
    return wrapper(model)


# Steps of the test paths.


def normalize(before: nn.Module, images: Tensor) -> Tensor:
    """Normalize images ``[B, 3, H, W]`` like a data preprocessor."""
    # The names in MMDetection and MMSegmentation.
    if any(
        getattr(before, name, False)
        for name in ('_channel_conversion', 'channel_conversion')
    ):
        images = images.flip(1)
    return (images - before.mean) / before.std if before._enable_normalize else images


def candidates(
    head: nn.Module, maps: tuple[Tensor, ...], size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best boxes of each level with their scores and labels.

    The labels of an RPN are the levels, so that NMS is applied per level.
    """
    cfg, classes = head.test_cfg, head.cls_out_channels
    outputs = list(zip(*head(maps)))  # by level
    priors = head.prior_generator.grid_priors(
        [level[0].shape[2:] for level in outputs], device=torch.device('cpu')
    )
    is_rpn = type(head).__name__ == 'RPNHead'
    found = []
    for number, (prior, level) in enumerate(zip(priors, outputs)):
        vote, deltas, *factor = (x[0].permute(1, 2, 0) for x in level)
        scores = vote.sigmoid().flatten()
        count = as_size(torch.scalar_tensor(scores.shape[0]).clamp(max=cfg.nms_pre))
        scores, best = scores.topk(count)
        box = best // classes
        there = scores > cfg.get('score_thr', 0)
        if factor:
            scores = scores * factor[0].flatten()[box].sigmoid()
        scores = torch.where(there, scores, -1)
        labels = torch.full_like(box, number) if is_rpn else best % classes
        found.append((prior[box], deltas.reshape(-1, 4)[box], scores, labels))
    prior, deltas, scores, labels = (torch.cat(parts) for parts in zip(*found))
    boxes = head.bbox_coder.decode(prior, deltas, max_shape=size)
    if cfg.get('min_bbox_size', -1) >= 0:
        shorter = (boxes[:, 2:] - boxes[:, :2]).amin(1)
        scores = torch.where(shorter > cfg.min_bbox_size, scores, -1)
    return boxes, scores, labels


def suppress(
    boxes: Tensor, scores: Tensor, labels: Tensor, cfg: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Apply NMS per label; ignore boxes with a negative score."""
    # As in mmcv's batched_nms, boxes are shifted by label to separate the labels.
    there = torch.where(scores[:, None] > 0, boxes, 0)
    shifted = boxes + labels[:, None] * (there.max() + 1)
    limits = [cfg.max_per_img], [cfg.nms.iou_threshold], [0.0]
    kept = torch.onnx.ops.symbolic(
        'NonMaxSuppression',
        (shifted[None], scores[None, None], *map(torch.tensor, limits)),
        dtype=torch.int64,
        shape=(as_size(scores.count_nonzero()), 3),  # corrected below
        version=OPSET,
    )
    shape = torch.onnx.ops.symbolic(
        'Shape', (kept,), dtype=torch.int64, shape=(2,), version=OPSET
    )
    kept = kept.narrow(0, 0, as_size(shape[0]))[:, 2]
    return boxes[kept], scores[kept], labels[kept]


def extract(extractor: nn.Module, maps: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
    """Pool boxes ``[N, 4]`` from the levels selected by an extractor."""
    layers = extractor.roi_layers
    levels = extractor.map_roi_levels(F.pad(boxes, (1, 0)), len(layers))
    height, width = layers[0].output_size
    out = boxes.new_zeros(boxes.shape[0], maps[0].shape[1], height, width)
    for level, (x, layer) in enumerate(zip(maps, layers)):
        (here,) = (levels == level).nonzero(as_tuple=True)
        settings = dict(
            output_height=height,
            output_width=width,
            spatial_scale=layer.spatial_scale,
            sampling_ratio=layer.sampling_ratio,
            coordinate_transformation_mode='half_pixel',
        )
        pooled = torch.onnx.ops.symbolic(
            'RoiAlign',
            (x, boxes[here], torch.zeros_like(here)),
            settings,
            dtype=x.dtype,
            shape=(here.shape[0], *out.shape[1:]),
            version=OPSET,
        )
        out = out.index_put((here,), pooled)
    return out


# Replacements for forward methods that would fix the image size.


def as_size(number: Tensor, least: int = 1) -> int:
    """Return a number as a size that torch.export treats as a plain symbol.

    A symbolic expression of the image's size would slow the export by minutes.
    """
    size = number.to(torch.int64).item()
    torch._check(size >= least)
    return size


def group_attention(self: GroupAttention, x: Tensor, grouping: Grouping) -> Tensor:
    """Compute `GroupAttention`, with groups formed by indexing instead of reshaping."""
    batch, height, width, channels = x.shape
    numbers = [torch.scalar_tensor(n, dtype=torch.int64) for n in grouping]
    rows, cols, interval = map(as_size, numbers)

    def cut(length: int, side: Tensor) -> tuple[Tensor, Tensor, int]:
        """Return each position's group, its index in the group, and the group count."""
        interval, at = numbers[2], torch.arange(length)
        window = side * interval
        count = as_size((length + window - 1) // window * interval)
        return at // window * interval + at % interval, at // interval % side, count

    down, row, tall = cut(height, numbers[0])
    across, col, wide = cut(width, numbers[1])
    groups, tokens = tall * wide, rows * cols
    place = (down[:, None] * wide + across) * tokens + row[:, None] * cols + col
    place = place.flatten()
    # The token at each place, counted from 1; 0 is padding.
    order = torch.zeros(groups * tokens, dtype=torch.int64)
    order = order.scatter(0, place, torch.arange(1, height * width + 1))
    qkv = F.pad(self.qkv(x).flatten(1, 2), (0, 0, 1, 0)).index_select(1, order)
    qkv = qkv.view(batch, groups, tokens, 3, self.num_heads, -1)
    q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)
    scores = q @ k.transpose(3, 4) * self.scale
    if self.pos is not None:
        scores = scores + expand_bias(
            self.pos(rows, cols), Grouping(rows, cols, interval)
        )
    padding = (order == 0).view(groups, 1, 1, tokens)
    weights = scores.masked_fill(padding, torch.finfo(scores.dtype).min).softmax(-1)
    x_in_groups = (weights @ v).transpose(2, 3).reshape(batch, -1, channels)
    return self.proj(x_in_groups.index_select(1, place).view(x.shape))


def adaptive_average(self: nn.AdaptiveAvgPool2d, x: Tensor) -> Tensor:
    """Compute adaptive average pooling as a matrix product along each side."""
    sides = self.output_size
    sides = (sides, sides) if isinstance(sides, int) else sides
    matrices = []
    for length, parts in zip(x.shape[2:], sides):
        at, part = torch.arange(length), torch.arange(parts)[:, None]
        start, end = part * length // parts, ((part + 1) * length + parts - 1) // parts
        matrices.append(((at >= start) & (at < end)) / (end - start))
    return matrices[0] @ x @ matrices[1].T


def upsample(self: nn.Module, x: Tensor) -> Tensor:
    """Compute mmseg's `Upsample` without the int() that fixes the size."""
    return F.interpolate(x, self.size, self.scale_factor, self.mode, self.align_corners)


@contextmanager
def at_any_size() -> Iterator[None]:
    """Replace the forward methods by those above."""
    forwards = {GroupAttention: group_attention, nn.AdaptiveAvgPool2d: adaptive_average}
    try:
        from mmseg.models.utils.wrappers import Upsample

        forwards[Upsample] = upsample
    except ImportError:  # detectors do not need MMSegmentation
        pass
    with ExitStack() as stack:
        for module, forward in forwards.items():
            stack.enter_context(mock.patch.object(module, 'forward', forward))
        yield
