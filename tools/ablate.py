"""Train and time the variants of the paper's ablation study (table 5).

    python tools/ablate.py data/mini_digits --out work_dirs/ablation

Each variant is CrossFormer-S with one component replaced through backbone arguments.
Parameters, multiply-adds and throughput are those of S at 224 x 224. Accuracy is
measured at a third of its width: each variant is trained on the mini set of
`make_mini_digits.py` for the same number of epochs, with several seeds. The experiment
is small, so its results may not transfer to ImageNet.

Writes `ablation.csv`, one line per training, then `ablation.md`, the table, and
`ablation.png`, the plot. Run the command again to resume after an interruption. Needs
`make env-cls`.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.registry import RUNNERS, init_default_scope
from tqdm import tqdm

import crossformer_mm.ablations  # noqa: F401 - registers the variants' parts
from crossformer_mm import CrossFormer
from parts.csv_rows import Row, read_rows, write_rows
from parts.model_cost import flop_counter
from parts.output import complete, save_figure

CONFIG = Path(__file__).parents[1] / 'configs' / 'crossformer_t_mini_digits.py'
VARIANTS: dict[str, dict[str, Any]] = {
    'CrossFormer': {},
    'single-scale embedding': dict(patch_sizes=[4], merge_sizes=[[2]] * 3),
    'SDA only': dict(attention='sda'),
    'LDA only': dict(attention='lda'),
    'shifted windows (Swin)': dict(attention='shifted'),
    'spatial reduction (PVT), APE': dict(attention='reduction', position_bias='ape'),
    'DPB with residuals': dict(position_bias='dpb_residual'),
    'RPB': dict(position_bias='rpb'),
    'APE': dict(position_bias='ape'),
    'no position bias': dict(position_bias='none'),
}
# A third of the width of S, with groups for the 16 x 16 tokens of a 64 x 64 image.
MINI = dict(
    arch=dict(embed_dims=32, depths=[2, 2, 6, 2], num_heads=[1, 2, 4, 8]),
    group_size=[4, 4, 4, 2],
    crs_interval=[4, 2, 1, 1],
)
BATCH = 4  # images, to measure the throughput
REPEATS = 5
FIELDS = ['variant', 'seed', 'top1']


def main() -> None:
    """Train, count and time all variants; then write the table and the plot."""
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / 'ablation.csv'
    rows = read_rows(path)
    done = {(row['variant'], int(row['seed'])) for row in rows}
    runs = [(name, seed) for seed in range(args.seeds) for name in VARIANTS]
    for name, seed in tqdm(runs, 'training', unit='run'):
        if (name, seed) not in done:
            accuracy = train(name, seed, args)
            rows.append(dict(variant=name, seed=seed, top1=accuracy))
            write_rows(path, FIELDS, rows)
    costs = {name: cost(variant) for name, variant in VARIANTS.items()}
    rates = throughput()
    accuracies = {
        name: [float(row['top1']) for row in rows if row['variant'] == name]
        for name in VARIANTS
    }
    text = table(costs, rates, accuracies)
    with complete(args.out / 'ablation.md') as part:
        part.write_text(text)
    print(text)
    print(save_figure(plot(accuracies), args.out / 'ablation.png'))


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add('data', metavar='DATA', type=Path, help='output of make_mini_digits.py')
    add('--out', type=Path, default=Path('work_dirs/ablation'), help='folder')
    add('--seeds', metavar='N', type=int, default=3, help='trainings of each variant')
    add('--epochs', metavar='N', type=int, default=4, help='of each training')
    return parser.parse_args()


def train(name: str, seed: int, args: argparse.Namespace) -> float:
    """Train the small network from scratch; return its top-1 accuracy in percent."""
    cfg = Config.fromfile(CONFIG)
    init_default_scope(cfg.default_scope)
    cfg.work_dir = str(args.out / 'runs')
    cfg.experiment_name = f'{list(VARIANTS).index(name)}-{seed}'
    cfg.model.backbone = dict(
        type='CrossFormer', drop_path_rate=0.0, **MINI, **VARIANTS[name]
    )
    # No weight decay for position tables, as in Swin.
    for table in ('patch_embed.position', 'attn.pos.table'):
        cfg.optim_wrapper.paramwise_cfg.custom_keys[table] = dict(decay_mult=0.0)
    width = MINI['arch']['embed_dims'] * 8
    cfg.model.neck.in_channels = cfg.model.head.in_channels = width
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(args.data)
    cfg.train_cfg.update(max_epochs=args.epochs, val_interval=args.epochs)
    cfg.param_scheduler[1].end = args.epochs
    cfg.randomness = dict(seed=seed)
    cfg.default_hooks.checkpoint = None
    cfg.default_hooks.visualization.enable = False
    cfg.log_level = 'ERROR'
    runner = RUNNERS.build(cfg)
    runner.train()
    return runner.val()['accuracy/top1']


def cost(variant: dict[str, Any]) -> Row:
    """Return the parameters (10^6) and the multiply-adds (10^9) of a variant of S."""
    # torch's counter fails on a view of a weight that requires gradients.
    model = CrossFormer('S', **variant).eval().requires_grad_(False)
    with torch.no_grad(), flop_counter() as counter:
        model(torch.rand(1, 3, 224, 224))
    return dict(
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        gmacs=counter.get_total_flops() / 2e9,
    )


def throughput() -> dict[str, float]:
    """Time the variants of S in turn; return images per second from the medians."""
    models = {name: CrossFormer('S', **v).eval() for name, v in VARIANTS.items()}
    images = torch.rand(BATCH, 3, 224, 224)
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for repeat in tqdm(range(1 + REPEATS), 'timing', unit='round'):
        for name, model in models.items():
            start = time.perf_counter()
            with torch.no_grad():
                model(images)
            if repeat > 0:  # the first round is a warm-up
                seconds[name].append(time.perf_counter() - start)
    return {name: BATCH / statistics.median(times) for name, times in seconds.items()}


def table(
    costs: dict[str, Row], rates: dict[str, float], accuracies: dict[str, list[float]]
) -> str:
    """Return the table in Markdown."""
    lines = [
        '| variant | parameters M | G multiply-adds | throughput, relative | '
        'mini set: top-1 %, mean ± deviation | seeds |',
        '|---|---|---|---|---|---|',
    ]
    for name, values in accuracies.items():
        mean, deviation = mean_and_deviation(values)
        lines.append(
            f'| {name} | {costs[name]["parameters"]:.1f} | '
            f'{costs[name]["gmacs"]:.2f} | {rates[name] / rates["CrossFormer"]:.2f} | '
            f'{mean:.2f} ± {deviation:.2f} | {len(values)} |'
        )
    return '\n'.join(lines) + '\n'


def plot(accuracies: dict[str, list[float]]) -> Figure:
    """Plot each training as a dot and each mean with its standard deviation."""
    figure = Figure(figsize=(8, 4.2), dpi=150, layout='constrained')
    axes = figure.subplots()
    names = list(accuracies)[::-1]
    for place, name in enumerate(names):
        mean, deviation = mean_and_deviation(accuracies[name])
        axes.errorbar(mean, place, xerr=deviation, fmt='o', capsize=4, color='C0')
        axes.plot(
            accuracies[name],
            [place] * len(accuracies[name]),
            '.',
            color='0.6',
            zorder=0,
        )
    axes.axvline(statistics.mean(accuracies['CrossFormer']), color='0.85', zorder=-1)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel('top-1 accuracy on the mini set, %: mean and standard deviation')
    axes.spines[['top', 'right']].set_visible(False)
    return figure


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the standard deviation, which is 0 for a single value."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return statistics.mean(values), deviation


if __name__ == '__main__':
    main()
