"""Train several backbones from scratch on your data and compare them.

    python tools/compare_backbones.py CONFIG --out work_dirs/comparison

CONFIG is a copy of `own_coco_example` or `own_segmentation_example`, edited for your
data, with `weights = None`. It is trained with CrossFormer-T and -S, Swin-T, PVTv2-B2
and ResNet-50, all from random weights with the same neck, head, data, schedule and
seeds. ResNet-50 uses group norm because the batches are too small for batch norm.

Writes `comparison.csv`, one line per evaluation, then `comparison.md`, the table, and
`comparison.png`, the curves over iterations and over seconds. After an interruption,
the same command resumes after the last complete training. Pictures of validation
images, ground truth beside prediction, are in `runs/*/*/vis_data/vis_image`.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS, init_default_scope
from mmengine.runner import Runner
from tqdm import tqdm

from parts.csv_rows import Row, read_rows, write_rows
from parts.output import complete, fail, save_figure
from parts.run_plots import DASHES, curve_axes, legend_below, palette

# Each backbone with the channels of its outputs.
BACKBONES: dict[str, tuple[dict[str, Any], list[int]]] = {
    'CrossFormer-T': (dict(type='CrossFormer_T'), [64, 128, 256, 512]),
    'CrossFormer-S': (dict(type='CrossFormer_S'), [96, 192, 384, 768]),
    'Swin-T': (
        dict(type='mmdet.SwinTransformer', drop_path_rate=0.2),
        [96, 192, 384, 768],
    ),
    'PVTv2-B2': (
        dict(
            type='mmdet.PyramidVisionTransformerV2',
            embed_dims=64,
            num_layers=[3, 4, 6, 3],
            init_cfg=None,
        ),
        [64, 128, 320, 512],
    ),
    'ResNet-50': (
        dict(
            type='mmdet.ResNet',
            depth=50,
            norm_cfg=dict(type='GN', num_groups=32),
            norm_eval=False,
        ),
        [256, 512, 1024, 2048],
    ),
}
# Name, and factor to convert it to percent.
METRICS = {'mmdet': ('coco/bbox_mAP', 100), 'mmseg': ('mIoU', 1)}
FIELDS = ['backbone', 'seed', 'parameters', 'iteration', 'seconds', 'result']


class Stopwatch(Hook):
    """Record the metric and the training time at each evaluation.

    Without a GPU this is CPU time, which other programs on the machine hardly affect.
    """

    clock = time.perf_counter if torch.cuda.is_available() else time.process_time

    def __init__(self) -> None:
        self.seconds = 0.0
        self.records: list[Row] = []

    def before_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self.start = self.clock()

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Stop the clock."""
        self.seconds += self.clock() - self.start

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Record the metric and the training time so far."""
        name, factor = METRICS[runner.cfg.default_scope]
        # MMDetection reports no AP if nothing is detected.
        result = factor * metrics.get(name, 0.0)
        self.records.append(
            dict(iteration=runner.iter, seconds=self.seconds, result=result)
        )


def main() -> None:
    """Train all backbones; then write the table and the curves."""
    args = parse_args()
    if not args.config.is_file():
        fail(f'{args.config} is missing')
    cfg = Config.fromfile(args.config)
    if cfg.get('load_from'):
        fail(f'{args.config} starts from {cfg.load_from}: write weights = None into it')
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / 'comparison.csv'
    rows = read_rows(path)
    done = {(row['backbone'], int(row['seed'])) for row in rows}
    runs = [(name, seed) for seed in range(args.seeds) for name in args.backbones]
    for name, seed in tqdm(runs, 'training', unit='run'):
        if (name, seed) not in done:
            rows += train(name, seed, args)
            write_rows(path, FIELDS, rows)
    metric, _ = METRICS[cfg.default_scope]
    text = table(rows, metric)
    with complete(args.out / 'comparison.md') as part:
        part.write_text(text)
    print(text + str(save_figure(plot(rows, metric), args.out / 'comparison.png')))


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('config', metavar='CONFIG', type=Path)
    add('--out', metavar='DIR', type=Path, default=Path('work_dirs/comparison'))
    add('--seeds', metavar='N', type=int, default=3, help='trainings each (default: 3)')
    add('--iterations', metavar='N', type=int, default=200, help='default: 200')
    add(
        '--backbones',
        metavar='NAME',
        nargs='+',
        choices=BACKBONES,
        default=[*BACKBONES],
        help='one or more of: ' + ', '.join(BACKBONES),
    )
    return parser.parse_args()


def train(name: str, seed: int, args: argparse.Namespace) -> list[Row]:
    """Train a backbone from scratch; return the results of its evaluations."""
    cfg = Config.fromfile(args.config)
    init_default_scope(cfg.default_scope)
    groups = {key: cfg.model.backbone[key] for key in ('group_size', 'crs_interval')}
    backbone, cfg.model.neck.in_channels = BACKBONES[name]
    ours = groups if name.startswith('CrossFormer') else {}
    cfg.model.backbone = dict(backbone, **ours)
    cfg.optim_wrapper.constructor = 'DefaultOptimWrapperConstructor'
    cfg.optim_wrapper.paramwise_cfg = dict(norm_decay_mult=0.0)
    warm_up, cosine = cfg.param_scheduler
    warm_up.end = cosine.begin = max(1, args.iterations // 10)
    cosine.update(end=args.iterations, T_max=args.iterations - cosine.begin)
    every = max(1, args.iterations // 4)
    cfg.train_cfg.update(max_iters=args.iterations, val_interval=every)
    cfg.default_hooks.checkpoint = None
    cfg.default_hooks.visualization.update(draw=seed == 0, interval=5)
    cfg.randomness = dict(seed=seed)
    cfg.experiment_name = cfg.visualizer.name = f'{name}-{seed}-{time.time():.0f}'
    cfg.work_dir = str(args.out / 'runs' / f'{name}-{seed}')
    cfg.log_level = 'ERROR'
    watch = Stopwatch()
    with redirect_stdout(None):  # pycocotools prints its progress
        runner = RUNNERS.build(cfg)
        runner.register_hook(watch, priority='LOWEST')
        runner.train()
    size = sum(p.numel() for p in runner.model.parameters()) / 1e6
    return [dict(backbone=name, seed=seed, parameters=size, **n) for n in watch.records]


def curves(rows: list[Row], name: str) -> dict[str, np.ndarray]:
    """Return a backbone's iterations, seconds and results, ``[seeds, evaluations]``."""
    own = [row for row in rows if row['backbone'] == name]
    seeds = sorted({row['seed'] for row in own}, key=int)
    return {
        key: np.array([[float(r[key]) for r in own if r['seed'] == s] for s in seeds])
        for key in ('iteration', 'seconds', 'result')
    }


def table(rows: list[Row], metric: str) -> str:
    """Return a table in Markdown: results at equal iterations and at equal time."""
    found = {row['backbone']: curves(rows, row['backbone']) for row in rows}
    sizes = {row['backbone']: float(row['parameters']) for row in rows}
    # The training time of the fastest backbone.
    budget = min(curve['seconds'][:, -1].mean() for curve in found.values())
    count = next(iter(found.values()))['iteration'][0, -1]
    lines = [
        f'| backbone | parameters M | s an iteration | {metric} % after {count:.0f} '
        f'iterations | {metric} % after {budget:.0f} s | seeds |',
        '|---|---|---|---|---|---|',
    ]
    for name, curve in found.items():
        pace = (curve['seconds'][:, -1] / curve['iteration'][:, -1]).mean()
        in_time = [
            float(np.interp(budget, seconds, results))
            for seconds, results in zip(curve['seconds'], curve['result'])
        ]
        lines.append(
            f'| {name} | {sizes[name]:.1f} | {pace:.2f} | '
            f'{summarize(curve["result"][:, -1])} | {summarize(in_time)} | '
            f'{len(in_time)} |'
        )
    return '\n'.join(lines) + '\n'


def summarize(values: Sequence[float]) -> str:
    """Format the mean and, if there are several values, the standard deviation."""
    mean = f'{statistics.mean(values):.1f}'
    return f'{mean} ± {statistics.stdev(values):.1f}' if len(values) > 1 else mean


def plot(rows: list[Row], metric: str) -> Figure:
    """Plot the mean result of each backbone over iterations and over seconds."""
    figure, panels = curve_axes([f'{metric}, %: mean of the seeds'] * 2)
    names = list(dict.fromkeys(row['backbone'] for row in rows))
    for name, colour, style in zip(names, palette(len(names)), [*DASHES, '-']):
        curve = {key: values.mean(0) for key, values in curves(rows, name).items()}
        for axes, key in zip(panels, ('iteration', 'seconds')):
            line = dict(color=colour, ls=style, marker='o', label=name)
            axes.plot(curve[key], curve['result'], **line)
    panels[1].set_xlabel('seconds of training')
    for axes in panels:
        axes.set_ylim(bottom=0)
        legend_below(axes, 2)
    return figure


if __name__ == '__main__':
    main()
