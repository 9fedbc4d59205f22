"""Measure the memory and time of one training step of a config.

    python tools/get_memory.py configs/mask_rcnn_crossformer_s_fpn_1x_coco.py \
        --shape 800 1333 --batch 2

Runs two steps, each with forward, backward and the config's optimizer, on random images
with random objects of the first class. The second step is timed; the first is a
warm-up. On a GPU the memory is torch's peak of allocated memory; on a CPU it is the
peak of the process minus its memory before the network was built.
"""

import resource
import time

import psutil
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement

from crossformer_mm.swap.dry_run import random_objects, segmentation_sample
from parts.model_cost import cost_parser, load_config

GIGABYTE = 1024**3


def main() -> None:
    """Measure and print one line."""
    parser = cost_parser(__doc__.splitlines()[0])
    parser.add_argument(
        '--batch', type=int, default=1, metavar='N', help='images (default: 1)'
    )
    args = parser.parse_args()
    cfg = load_config(args)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.manual_seed(0)
    before = psutil.Process().memory_info().rss
    model = MODELS.build(cfg.model).to(device).train()
    if cfg.default_scope == 'mmseg':
        make_sample = segmentation_sample
        model.data_preprocessor.size = tuple(args.shape)
        model.data_preprocessor.size_divisor = None
    else:
        make_sample = detection_sample
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    for _ in range(2):
        start = time.perf_counter()
        images = torch.randint(256, (args.batch, 3, *args.shape), dtype=torch.uint8)
        samples = [make_sample(*args.shape, classes=1) for _ in images]
        model.train_step(dict(inputs=list(images), data_samples=samples), optimizer)
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


def detection_sample(height: int, width: int, classes: int) -> BaseDataElement:
    """Return a sample with random boxes whose masks fill them."""
    from mmdet.structures import DetDataSample

    shape = dict(img_shape=(height, width), ori_shape=(height, width))
    return DetDataSample(
        metainfo=dict(shape, scale_factor=(1.0, 1.0)),
        gt_instances=random_objects(height, width, classes),
    )


if __name__ == '__main__':
    main()
