"""Overfit eight models to eight images each and plot the losses.

    python tools/overfit_curves.py --coco data/mini_coco --ade20k data/mini_ade20k \
        --out work_dirs/overfit

Each model is a stock config converted to CrossFormer-T by `crossformer-config swap` and
trained from scratch on the same eight small images in every iteration, until the loss
falls to a tenth of the first. OUT/NAME.csv holds the losses of a model; a model with
such a file is not trained again. OUT/overfit.png shows all curves. `--only NAME ...`
selects models.
"""

import argparse
import csv
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner.utils import set_random_seed

from crossformer_mm.swap.dry_run import build_model, make_small
from crossformer_mm.swap.rules import swap
from parts.output import save_figure
from parts.run_plots import curve_axes, legend_below

CONFIGS = {
    'RTMDet-Ins': 'mmdet::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py',
    'DINO': 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
    'Mask2Former, instance': 'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
    'Mask2Former, semantic': 'mmseg::mask2former/'
    'mask2former_r50_8xb2-160k_ade20k-512x512.py',
    'ATSS': 'mmdet::atss/atss_r50_fpn_1x_coco.py',
    'Cascade R-CNN': 'mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py',
    'SegFormer head': 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
    'UPerNet': 'mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py',
}
# Small images have few tokens: use fewer queries than tokens, and fewer points.
SMALLER = {
    'DINO': dict(model=dict(num_queries=60)),
    'Mask2Former, instance': dict(model=dict(train_cfg=dict(num_points=1024))),
    'Mask2Former, semantic': dict(
        model=dict(decode_head=dict(train_cfg=dict(num_points=1024)))
    ),
}
IMAGES = 8
SIDE = 64  # pixels
GOAL = 0.1  # of the first loss
WARM_UP = 10  # iterations


def main() -> None:
    """Train the models without a curve, plot all curves and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--coco', type=Path, default=Path('data/mini_coco'))
    parser.add_argument('--ade20k', type=Path, default=Path('data/mini_ade20k'))
    parser.add_argument('--out', type=Path, default=Path('work_dirs/overfit'))
    parser.add_argument('--iterations', type=int, default=200)
    parser.add_argument('--lr', type=float, default=5e-4)
    parser.add_argument('--only', nargs='+', metavar='NAME', choices=CONFIGS)
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    MMLogger.get_instance('overfit', log_level='ERROR')
    args.out.mkdir(parents=True, exist_ok=True)
    curves = {}
    for name in args.only or CONFIGS:
        path = args.out / f'{file_name(name)}.csv'
        if not path.exists():
            root = args.ade20k if CONFIGS[name].startswith('mmseg') else args.coco
            config = swap_config(name, args.out)
            losses = overfit(config, root, args.iterations, args.lr)
            with path.open('w', newline='') as file:
                csv.writer(file).writerows(enumerate(losses))
        with path.open(newline='') as file:
            curves[name] = [float(loss) for _, loss in csv.reader(file)]
        first, last = curves[name][0], min(curves[name])
        count = len(curves[name]) - 1
        print(
            f'{name:22} {first:8.3f} -> {last:8.3f}, {last / first:.3f} of the first, '
            f'{count} iterations',
            flush=True,
        )
    print(draw(curves, args.out / 'overfit.png'))


def file_name(name: str) -> str:
    """Return a file name for a model."""
    return name.lower().replace(', ', '_').replace(' ', '_').replace('-', '_')


def swap_config(name: str, folder: Path) -> Config:
    """Return a model's config with the backbone swapped."""
    path = folder / f'{file_name(name)}.py'
    if not path.exists():
        swap(CONFIGS[name], 'CrossFormer_T', path)
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(SMALLER.get(name, {}))
    cfg.model.backbone.drop_path_rate = 0.0
    make_small(cfg, SIDE)
    return cfg


def overfit(cfg: Config, root: Path, iterations: int, lr: float) -> list[float]:
    """Train a model on the same images; return the losses up to the goal."""
    set_random_seed(0)
    model = build_model(cfg)
    model.train()
    images = batch(cfg.default_scope, root)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-4)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=WARM_UP)
    losses = []
    for _ in range(iterations):
        # Models modify the annotations in place.
        data = model.data_preprocessor(deepcopy(images), True)
        loss, _ = model.parse_losses(model(**data, mode='loss'))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()
        warm_up.step()
        losses.append(loss.item())
        if losses[-1] < GOAL * losses[0]:
            break
    return losses


def batch(scope: str, root: Path) -> dict[str, Any]:
    """Return the first images of a mini set as a batch of a data loader."""
    init_default_scope(scope)
    if scope == 'mmdet':
        dataset = dict(
            type='CocoDataset',
            data_root=str(root),
            ann_file='annotations/instances_train2017.json',
            data_prefix=dict(img='train2017/'),
            filter_cfg=dict(filter_empty_gt=True),
        )
        load = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
        pack = 'PackDetInputs'
    else:
        dataset = dict(
            type='ADE20KDataset',
            data_root=str(root),
            data_prefix=dict(
                img_path='images/training', seg_map_path='annotations/training'
            ),
        )
        load = dict(type='LoadAnnotations', reduce_zero_label=True)
        pack = 'PackSegInputs'
    resize = dict(type='Resize', scale=(SIDE, SIDE))
    pipeline = [dict(type='LoadImageFromFile'), load, resize, dict(type=pack)]
    samples = DATASETS.build(dict(dataset, pipeline=pipeline, indices=IMAGES))
    return pseudo_collate(list(samples))


def draw(curves: dict[str, list[float]], path: Path) -> Path:
    """Plot the losses, each divided by its first value."""
    figure, (axes,) = curve_axes(['Loss on eight images, divided by the first'])
    for number, (name, losses) in enumerate(curves.items()):
        style = '-' if number < 4 else '--'
        axes.plot([loss / losses[0] for loss in losses], style, label=name)
    axes.axhline(GOAL, color='0.5', linewidth=1)
    axes.set_yscale('log')
    legend_below(axes, 4)
    return save_figure(figure, path)


if __name__ == '__main__':
    main()
