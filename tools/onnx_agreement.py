"""How far an ONNX file agrees with the network that it was made of.

    python tools/onnx_agreement.py CONFIG CHECKPOINT OUT.onnx --sizes 50

export_onnx.py compares three sizes of its own accord; this command compares as many as
are asked for, drawn between 96 and 1400 pixels. The seconds of both are on the same
threads.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import torch
from torch import nn

from run_onnx import IMAGE, paste_mask

SIZES = ((64, 96), (160, 224), (233, 171))


def main() -> None:
    """Compare at random sizes."""
    from mmengine.config import Config

    from export_onnx import load

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', metavar='CONFIG', type=Path)
    parser.add_argument('checkpoint', metavar='CHECKPOINT', type=Path)
    parser.add_argument('out', metavar='OUT.onnx', type=Path)
    parser.add_argument('--sizes', type=int, default=50, help='how many (default: 50)')
    parser.add_argument('--longest', type=int, default=1400, help='default: 1400')
    parser.add_argument(
        '--shape', metavar=('H', 'W'), type=int, nargs=2, help='this size each time'
    )
    args = parser.parse_args()
    model, _ = load(Config.fromfile(args.config), args.checkpoint)
    session = open_session(args.out)
    draw = np.random.default_rng(0)
    for _ in range(args.sizes):
        size = args.shape or draw.integers(96, args.longest + 1, 2)
        print(compare(model, session, tuple(map(int, size)))[0], flush=True)


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Load a file on as many threads as PyTorch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        path, options, providers=['CPUExecutionProvider']
    )


def compare(
    model: nn.Module, session: onnxruntime.InferenceSession, size: tuple[int, int]
) -> tuple[str, float]:
    """Run an image of a size through both.

    Returns:
        tuple: A line that says how far they agree, and the share of the labels, or of
        the boxes, that do.
    """
    image = draw_image(*size)
    start = time.perf_counter()
    found = session.run(None, {IMAGE: image[None].astype(np.float32)})
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
    """Draw discs of all colours on a ground of soft ones: ``[3, H, W]``, uint8."""
    draw = np.random.default_rng(height * 10000 + width)
    soft = draw.integers(0, 256, (8, 8, 3)).astype(np.uint8)
    image = cv2.resize(soft, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(6):
        centre = int(draw.integers(width)), int(draw.integers(height))
        radius = int(draw.integers(8, 8 + min(height, width) // 4))
        cv2.circle(image, centre, radius, draw.integers(0, 256, 3).tolist(), -1)
    return np.ascontiguousarray(image.transpose(2, 0, 1))


@torch.no_grad()
def predict(model: nn.Module, image: torch.Tensor) -> list[Any]:
    """Run MMDetection's or MMSegmentation's own test step, at the size as it is."""
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
    """Match boxes one to one; say how many there are, and how far apart they are."""
    boxes, scores, labels, *masks = found
    free, ious, apart, mask_ious = set(range(len(boxes))), [1.0], [0.0], [1.0]
    alone = 0
    for i, box in enumerate(theirs['bboxes']):
        near = [
            j
            for j in free
            if labels[j] == theirs['labels'][i]
            and abs(scores[j] - theirs['scores'][i]) < 1e-3
            and iou(boxes[j], box) > 0.99
        ]
        if not near:
            alone += 1
            continue
        j = max(near, key=lambda j: iou(boxes[j], box))
        free.remove(j)
        ious.append(iou(boxes[j], box))
        apart.append(abs(scores[j] - theirs['scores'][i]))
        if masks:
            ours, mask = paste_mask(masks[0][j], boxes[j], *size), theirs['masks'][i]
            union = (ours | mask).sum()
            mask_ious.append((ours & mask).sum() / union if union else 1.0)
    matched = len(boxes) - len(free)
    text = (
        f'{matched} boxes match, {alone} of PyTorch and {len(free)} of ONNX do not; '
        f'least IoU {min(ious):.4f}, scores {max(apart):.1e} apart'
    ) + (f', least IoU of masks {min(mask_ious):.4f}' if masks else '')
    return text, matched / (matched + max(alone, len(free))) if len(boxes) else 1.0 - (
        alone > 0
    )


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Return the intersection over union of two boxes."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    inside = np.prod(np.maximum(high - low, 0))
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inside
    return float(inside / union) if union > 0 else float(np.array_equal(a, b))


if __name__ == '__main__':
    main()
