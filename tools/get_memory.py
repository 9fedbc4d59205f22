"""Measure the memory and time of one training step of a config.

    python tools/get_memory.py configs/mask_rcnn_crossformer_s_fpn_1x_coco.py \
        --shape 800 1333 --batch 2

Random images with random objects go through the network, forward, backward and one
step of the config's optimizer, twice; the second step is timed, since it finds
everything set up. On a GPU the memory is the peak of what torch has allocated, on a CPU
how much the process's peak exceeds what it held before the network was built.
"""

import argparse
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from mmengine.config import Config, DictAction
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData

import crossformer_mm  # noqa: F401 - registers the backbones

OBJECTS = 8  # per image; COCO has 7.3 on average
GIGABYTE = 1024**3


def main() -> None:
    """Measure and print one line."""
    args = parse_args()
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    init_default_scope(cfg.default_scope)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.manual_seed(0)
    before = psutil.Process().memory_info().rss
    model = MODELS.build(cfg.model).to(device).train()
    if cfg.default_scope == 'mmseg':
        make_data = segmentation_data
        model.data_preprocessor.size = tuple(args.shape)
    else:
        make_data = detection_data
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    for _ in range(2):
        start = time.perf_counter()
        model.train_step(make_data(*args.shape, args.batch), optimizer)
        if device == 'cuda':
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    if device == 'cuda':
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    print(
        f'{args.config.stem}, {args.batch} x {args.shape[0]} x {args.shape[1]}, '
        f'{device}: {peak / GIGABYTE:.2f} GiB, {seconds:.1f} s'
    )


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add('config', metavar='CONFIG', type=Path)
    add('--shape', nargs=2, type=int, required=True, metavar=('H', 'W'), help='pixels')
    add('--batch', type=int, default=1, metavar='N', help='images (default: 1)')
    add(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='change the config, such as model.backbone.with_cp=True',
    )
    return parser.parse_args()


def detection_data(height: int, width: int, batch: int) -> dict[str, list[Any]]:
    """Make random images with random boxes, their masks full."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    def sample() -> DetDataSample:
        corners = torch.rand(OBJECTS, 2) * 0.7
        boxes = torch.cat([corners, corners + 0.05 + torch.rand(OBJECTS, 2) * 0.25], 1)
        boxes *= torch.tensor([width, height] * 2)
        masks = np.zeros((OBJECTS, height, width), np.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist()):
            mask[top:bottom, left:right] = 1
        shape = dict(img_shape=(height, width), ori_shape=(height, width))
        return DetDataSample(
            metainfo=dict(shape, scale_factor=(1.0, 1.0)),
            gt_instances=InstanceData(
                bboxes=boxes,
                labels=torch.randint(80, (OBJECTS,)),
                masks=BitmapMasks(masks, height, width),
            ),
        )

    return dict(
        inputs=[random_image(height, width) for _ in range(batch)],
        data_samples=[sample() for _ in range(batch)],
    )


def segmentation_data(height: int, width: int, batch: int) -> dict[str, list[Any]]:
    """Make random images with random labels."""
    from mmseg.structures import SegDataSample

    def sample() -> SegDataSample:
        labels = torch.randint(150, (1, height, width))
        return SegDataSample(
            metainfo=dict(img_shape=(height, width)), gt_sem_seg=PixelData(data=labels)
        )

    return dict(
        inputs=[random_image(height, width) for _ in range(batch)],
        data_samples=[sample() for _ in range(batch)],
    )


def random_image(height: int, width: int) -> torch.Tensor:
    """Make an image ``[3, H, W]``, uint8."""
    return torch.randint(256, (3, height, width), dtype=torch.uint8)


if __name__ == '__main__':
    main()
