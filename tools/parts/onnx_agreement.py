"""Compare an ONNX file with the network from which it was exported."""

import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_state_dict
from torch import Tensor, nn

from crossformer_mm.checkpoint import CheckpointError, check_loaded, read_checkpoint

from .output import fail

SIZES = ((64, 96), (160, 224), (233, 171))


def load(cfg: Config, checkpoint: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Build a network and load its complete weights."""
    scope = cfg.get('default_scope')
    if scope not in ('mmdet', 'mmseg'):
        fail(f'the config is for {scope}: a detector or a segmentor is needed')
    init_default_scope(scope)
    model = MODELS.build(cfg.model)
    try:
        content = read_checkpoint(str(checkpoint))
        load_state_dict(model, content.get('state_dict', content), logger='silent')
        check_loaded(model, content, str(checkpoint))
    except CheckpointError as error:
        fail(str(error))
    return model.eval().requires_grad_(False), content


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Load a file, with as many threads as PyTorch."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        path, options, providers=['CPUExecutionProvider']
    )


def compare(
    model: nn.Module, session: onnxruntime.InferenceSession, size: tuple[int, int]
) -> tuple[str, float]:
    """Run both on an image of the given size.

    Returns:
        tuple: A line that reports the agreement, and the fraction of the labels, or of
        the boxes, that agree.
    """
    image = draw_image(*size)
    start = time.perf_counter()
    found = session.run(None, {'images': image[None].astype(np.float32)})
    between = time.perf_counter()
    (expected,) = predict(model, torch.from_numpy(image))
    line = (
        f'{size[0]} x {size[1]}: ONNX Runtime {between - start:.2f} s, PyTorch '
        f'{time.perf_counter() - between:.2f} s, '
    )
    if 'pred_sem_seg' in expected:
        labels = expected.pred_sem_seg.data[0].numpy()
        share = float((labels == found[0][0]).mean())
        return line + f'{share:.4%} of the labels are equal', share
    theirs = {k: v.numpy() for k, v in expected.pred_instances.all_items()}
    text, share = match(found, theirs, size)
    return line + text, share


def draw_image(height: int, width: int) -> np.ndarray:
    """Draw random discs on a smooth random background: ``[3, H, W]``, uint8."""
    draw = np.random.default_rng(height * 10000 + width)
    soft = draw.integers(0, 256, (8, 8, 3)).astype(np.uint8)
    image = cv2.resize(soft, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(6):
        centre = int(draw.integers(width)), int(draw.integers(height))
        radius = int(draw.integers(8, 8 + min(height, width) // 4))
        cv2.circle(image, centre, radius, draw.integers(0, 256, 3).tolist(), -1)
    return np.ascontiguousarray(image.transpose(2, 0, 1))


@torch.no_grad()
def predict(model: nn.Module, image: Tensor) -> list[Any]:
    """Run MMDetection's or MMSegmentation's test step without resizing."""
    shape = tuple(image.shape[1:])
    meta = dict(img_shape=shape, ori_shape=shape, pad_shape=shape, scale_factor=(1, 1))
    if hasattr(model, 'decode_head'):
        from mmseg.structures import SegDataSample as Sample
    else:
        from mmdet.structures import DetDataSample as Sample
    return model.test_step(dict(inputs=[image], data_samples=[Sample(metainfo=meta)]))


def match(
    found: list[np.ndarray], theirs: dict[str, Any], size: tuple[int, int]
) -> tuple[str, float]:
    """Match boxes one to one; report the number of matches and their differences."""
    boxes, scores, labels, *masks = found
    free, pairs = set(range(len(boxes))), []
    for i, box in enumerate(theirs['bboxes']):
        near = [
            (overlap, j)
            for j in free
            if labels[j] == theirs['labels'][i]
            and abs(scores[j] - theirs['scores'][i]) < 1e-3
            and (overlap := iou(boxes[j], box)) > 0.99
        ]
        if near:
            overlap, j = max(near)
            free.remove(j)
            pairs.append((i, j, overlap))
    apart = [abs(scores[j] - theirs['scores'][i]) for i, j, _ in pairs]
    text = (
        f'{len(pairs)} boxes match, {len(theirs["bboxes"]) - len(pairs)} of PyTorch '
        f'and {len(free)} of ONNX do not; least IoU '
        f'{min((overlap for *_, overlap in pairs), default=1.0):.4f}, scores '
        f'{max(apart, default=0.0):.1e} apart'
    )
    if masks:
        least, differ, pixels, margin = compare_masks(found, theirs, pairs, size)
        text += (
            f', least IoU of masks {least:.4f} ({differ} of {pixels} pixels), all '
            f'pixels that differ within {margin:.1e} of the threshold'
        )
    most = max(len(boxes), len(theirs['bboxes']))
    return text, len(pairs) / most if most else 1.0


def compare_masks(
    found: list[np.ndarray],
    theirs: dict[str, Any],
    pairs: list[tuple[int, int, float]],
    size: tuple[int, int],
) -> tuple[float, int, int, float]:
    """Compare the masks of matched boxes, pasted into the image.

    Returns:
        tuple: The lowest IoU, the number of differing pixels of that pair and of pixels
        in its union, and, over all differing pixels, the largest distance of the
        probability from the threshold of 0.5.
    """
    worst, margin = (1.0, 0, 0), 0.0
    boxes, _, _, masks = map(torch.from_numpy, found)
    for i, j, _ in pairs:
        (pasted,) = paste_masks(masks[j, None], boxes[j, None], size)
        probability, mask = pasted.numpy(), theirs['masks'][i]
        ours = probability >= 0.5
        differs, union = ours != mask, (ours | mask).sum()
        if union:
            worst = min(worst, (1 - differs.sum() / union, differs.sum(), union))
        margin = max(margin, abs(probability - 0.5)[differs].max(initial=0.0))
    return *worst, margin


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Paste masks ``[N, 28, 28]`` into images of a size; return probabilities."""
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    return _do_paste_mask(masks[:, None], boxes, *size, skip_empty=False)[0]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Return the intersection over union of two boxes."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    inside = np.prod(np.maximum(high - low, 0))
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inside
    return float(inside / union) if union > 0 else float(np.array_equal(a, b))
