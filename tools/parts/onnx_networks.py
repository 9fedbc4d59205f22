"""What export_onnx.py exports: whole networks, from the image to the results.

Each repeats the test path of MMDetection or MMSegmentation in steps that hold at every
size, with the network's own modules.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossformer_mm.ops.partition import ceil_div

from . import onnx_operators

COVERED = (
    'covered are segmentors of mmseg in whole mode, one-stage detectors with the test '
    'path of RetinaNet (ATSS, FCOS), Mask R-CNN, Faster R-CNN and their Cascades'
)


class NotCovered(Exception):
    """A network, or a setting of it, that cannot be exported."""


class Segmentor(nn.Module):
    """Images ``[B, 3, H, W]`` to labels ``[B, H, W]`` and, if wanted, scores."""

    traced_from = 64

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
        for module in model.modules():
            for name, child in module.named_children():
                if type(child).__name__ == 'Upsample' and not child.size:
                    # mmseg's takes int() of its sizes, which makes constants of them.
                    same = nn.Upsample(None, child.scale_factor, child.mode)
                    same.align_corners = child.align_corners
                    setattr(module, name, same)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Segment images."""
        x = normalize(self.model.data_preprocessor, images)
        x = self.model.encode_decode(x, [dict(img_shape=x.shape[2:])])
        if self.model.out_channels == 1:
            scores = x.sigmoid()
            labels = (scores > self.model.decode_head.threshold)[:, 0].long()
        else:
            scores, labels = x.softmax(1), x.argmax(1)
        return (labels, scores) if self.with_scores else (labels,)


class Detector(nn.Module):
    """An image ``[1, 3, H, W]`` to the boxes of a one-stage detector."""

    outputs = ['boxes', 'scores', 'labels']
    # The smallest side that the exporter is told of: a level of one pixel would be of
    # constant size to it. The file is right from LEAST_SIDE on, which the check tries.
    traced_from = 129

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        head = getattr(model, 'roi_head', None) or model.bbox_head
        self.score_threshold = head.test_cfg.score_thr

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Detect objects: boxes ``[N, 4]``, scores and labels ``[N]``."""
        head = self.model.bbox_head
        cfg, size = head.test_cfg, images.shape[2:]
        boxes, scores, labels = candidates(head, self.features(images), size, cfg)
        keep = suppress(boxes, scores, labels, cfg.nms, cfg.max_per_img)
        return boxes[keep], scores[keep], labels[keep]

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """Normalize, pad and run backbone and neck."""
        before = self.model.data_preprocessor
        x, divisor = normalize(before, images), before.pad_size_divisor
        bottom, right = (ceil_div(n, divisor) * divisor - n for n in x.shape[2:])
        return self.model.extract_feat(
            F.pad(x, (0, right, 0, bottom), value=before.pad_value)
        )


class TwoStageDetector(Detector):
    """An image to the boxes, and masks if there are, of an R-CNN, cascaded or not."""

    traced_from = 65

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        roi = model.roi_head
        self.cascaded = isinstance(roi.bbox_head, nn.ModuleList)
        self.outputs = Detector.outputs + ['masks'] * roi.with_mask

    def stages(self, part: str) -> list[nn.Module]:
        """List the heads or extractors of all stages."""
        found = getattr(self.model.roi_head, part)
        return list(found) if self.cascaded else [found]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Detect objects, as :class:`Detector`, and masks ``[N, 28, 28]``."""
        rpn, cfg = self.model.rpn_head, self.model.roi_head.test_cfg
        size, maps = images.shape[2:], self.features(images)
        boxes, scores, levels = candidates(rpn, maps, size, rpn.test_cfg)
        boxes = boxes[
            suppress(boxes, scores, levels, rpn.test_cfg.nms, rpn.test_cfg.max_per_img)
        ]
        votes, heads = [], self.stages('bbox_head')
        for head, extractor in zip(heads, self.stages('bbox_roi_extractor')):
            vote, deltas = head(extract(extractor, maps, boxes))
            votes.append(vote)
            if head is not heads[-1]:
                meta = dict(img_shape=size)
                boxes = head.regress_by_class(
                    boxes, vote[:, :-1].argmax(1), deltas, meta
                )
        scores = (sum(votes) / len(votes)).softmax(-1)[:, :-1]
        count, classes = boxes.shape[0], scores.shape[1]
        each = 1 if head.reg_class_agnostic else classes
        boxes = boxes[:, None].expand(-1, each, -1).reshape(-1, 4)
        boxes = head.bbox_coder.decode(boxes, deltas.reshape(-1, 4), max_shape=size)
        boxes = boxes.reshape(count, each, 4).expand(-1, classes, -1).reshape(-1, 4)
        labels = torch.arange(classes).expand(count, -1).reshape(-1)
        scores = torch.where(scores > cfg.score_thr, scores, -1).reshape(-1)
        keep = suppress(boxes, scores, labels, cfg.nms, cfg.max_per_img)
        found = boxes[keep], scores[keep], labels[keep]
        return (
            (*found, self.masks(maps, found[0], found[2])) if self.with_mask else found
        )

    @property
    def with_mask(self) -> bool:
        """Tell whether there is a mask head."""
        return self.model.roi_head.with_mask

    def masks(self, maps: tuple[Tensor, ...], boxes: Tensor, labels: Tensor) -> Tensor:
        """Return how probable each point of a box is in the object."""
        masks = []
        for head, extractor in zip(
            self.stages('mask_head'), self.stages('mask_roi_extractor')
        ):
            x = head(extract(extractor, maps, boxes)).sigmoid()
            one = labels * (not head.class_agnostic)
            place = one[:, None, None, None].expand(-1, -1, *x.shape[2:])
            masks.append(x.gather(1, place)[:, 0])
        return sum(masks) / len(masks)


def normalize(before: nn.Module, images: Tensor) -> Tensor:
    """Do to images ``[B, 3, H, W]`` what a data preprocessor does."""
    flip = getattr(before, 'channel_conversion', None) or getattr(
        before, '_channel_conversion', False
    )
    images = images.flip(1) if flip else images
    return (images - before.mean) / before.std if before._enable_normalize else images


def candidates(
    head: nn.Module, maps: tuple[Tensor, ...], size: tuple[int, int], cfg: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best boxes of each level, their scores and labels.

    Of an RPN the levels take the place of the labels: boxes suppress their own only.
    """
    classes, *others = head(maps)
    shapes = [x.shape[2:] for x in classes]
    priors = head.prior_generator.grid_priors(shapes, device=torch.device('cpu'))
    is_rpn = type(head).__name__ == 'RPNHead'
    found = []
    for level, (prior, vote, deltas, *factor) in enumerate(
        zip(priors, classes, *others)
    ):
        scores = vote[0].permute(1, 2, 0).reshape(-1, head.cls_out_channels).sigmoid()
        best = onnx_operators.top(scores.reshape(-1), cfg.nms_pre)
        box = best // head.cls_out_channels
        labels = box * 0 + level if is_rpn else best % head.cls_out_channels
        scores = scores.reshape(-1)[best]
        there = scores > cfg.get('score_thr', 0)
        if factor:
            factor = factor[0][0].permute(1, 2, 0).reshape(-1)[box].sigmoid()
            scores = scores * factor
        scores = torch.where(there, scores, -1)
        deltas = deltas[0].permute(1, 2, 0).reshape(-1, 4)[box]
        found.append((prior[box], deltas, scores, labels))
    priors, deltas, scores, labels = (torch.cat(parts) for parts in zip(*found))
    boxes = head.bbox_coder.decode(priors, deltas, max_shape=size)
    if cfg.get('min_bbox_size', -1) >= 0:
        least = (boxes[:, 2:] - boxes[:, :2]).amin(1)
        scores = torch.where(least > cfg.min_bbox_size, scores, -1)
    return boxes, scores, labels


def suppress(
    boxes: Tensor, scores: Tensor, labels: Tensor, cfg: Any, most: int
) -> Tensor:
    """Suppress boxes of the same label, as ``mmcv.ops.batched_nms`` does."""
    # Boxes of another label lie elsewhere.
    there = torch.where(scores[:, None] > 0, boxes, 0)
    shift = labels[:, None].to(boxes.dtype) * (there.max() + 1)
    return onnx_operators.nms(boxes + shift, scores, cfg.iou_threshold, most)


def extract(extractor: nn.Module, maps: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
    """Cut boxes out of the levels that an extractor chooses."""
    maps = maps[: len(extractor.featmap_strides)]
    levels = extractor.map_roi_levels(F.pad(boxes, (1, 0)), len(maps))
    scales, layer = [1 / s for s in extractor.featmap_strides], extractor.roi_layers[0]
    return onnx_operators.roi_align(
        maps, boxes, levels, scales, layer.output_size[0], layer.sampling_ratio
    )


def whole_network(model: nn.Module, with_scores: bool) -> nn.Module:
    """Wrap a network from the image to the results; end where one is not covered."""
    if hasattr(model, 'decode_head'):
        return Segmentor(model, with_scores)
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead

    path = ('predict_by_feat', '_predict_by_feat_single', '_bbox_post_process')
    head, roi = getattr(model, 'bbox_head', None), getattr(model, 'roi_head', None)
    if type(roi).__name__ in ('StandardRoIHead', 'CascadeRoIHead'):
        wrapped, cfgs = TwoStageDetector, [model.rpn_head.test_cfg, roi.test_cfg]
        sigmoid = model.rpn_head.use_sigmoid_cls
    elif isinstance(head, BaseDenseHead) and all(
        getattr(type(head), name) is getattr(BaseDenseHead, name) for name in path
    ):
        wrapped, cfgs, sigmoid = Detector, [head.test_cfg], head.use_sigmoid_cls
    else:
        raise NotCovered(
            f'{type(roi or head or model).__name__} is not covered: {COVERED}'
        )
    if not sigmoid or any(cfg.nms.type != 'nms' for cfg in cfgs):
        raise NotCovered(
            f'only scores by sigmoid and nms of type "nms" are covered; {COVERED}'
        )
    return wrapped(model)
