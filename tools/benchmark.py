"""Time CrossFormer against other backbones, on a CPU or a GPU.

    python tools/benchmark.py
    python tools/benchmark.py --networks "CrossFormer-S group" \
        --shapes 256x256 512x512 1024x1024 2048x2048 --out work_dirs/scaling
    python tools/benchmark.py --device cuda

Each measurement runs in its own process. The networks take turns, so that a slowdown of
the machine affects all of them. Ratios are relative to the first network. Measurements
are appended to OUT/benchmark.csv line by line; the table of medians and
OUT/benchmark.png are made from it at the end. On a GPU, `parts/benchmark_gpu.py` runs a
fixed list of measurements instead.
"""

import argparse
import csv
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.progress import track

from parts.benchmark_report import report
from parts.output import fail

DENSE = dict(type='CrossFormer_S', group_size=(7, 7, 7, 7), crs_interval=(8, 4, 2, 1))
NETWORKS = {
    'Swin-T': dict(
        type='mmdet.SwinTransformer',
        embed_dims=96,
        depths=(2, 2, 6, 2),
        num_heads=(3, 6, 12, 24),
        drop_path_rate=0.2,  # CrossFormer-S's default
    ),
    'PVTv2-B2': dict(
        type='mmdet.PyramidVisionTransformerV2', embed_dims=64, num_layers=(3, 4, 6, 3)
    ),
    'ResNet-50': dict(type='mmdet.ResNet', depth=50, norm_eval=False),
    'CrossFormer-S interval': dict(DENSE, lda_mode='interval'),
    'CrossFormer-S group': dict(DENSE, lda_mode='group'),
    'CrossFormer-S interval, accelerated': dict(
        DENSE, lda_mode='interval', accelerate=True
    ),
    'CrossFormer-S group, accelerated': dict(DENSE, lda_mode='group', accelerate=True),
}
COLUMNS = (
    *('task', 'network', 'height', 'width', 'batch', 'device', 'dtype', 'with_cp'),
    *('compile', 'seconds', 'peak_mib', 'idle_mib', 'gmacs', 'gflops'),
)

Job = dict[str, Any]


def main() -> None:
    """Run the measurements, then print and plot the results."""
    args = parse_args()
    if args.device == 'cuda':
        from parts.benchmark_gpu import run

        run(args.out)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / 'benchmark.csv'
    if path.exists():
        fail(f'{path} is there already: move it or name another folder with --out')
    todo = list(jobs(args))
    with path.open('w', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for job in track(todo, 'Measuring'):
            writer.writerow(job | measure(job))
            file.flush()
    report(path)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        '--networks',
        nargs='+',
        choices=NETWORKS,
        default=list(NETWORKS),
        metavar='NAME',
        help=f'of {", ".join(NETWORKS)} (default: all)',
    )
    add(
        '--shapes',
        nargs='+',
        type=shape,
        default=[(224, 224), (512, 512), (800, 1344)],
        metavar='HxW',
        help='sizes of the images (default: 224x224 512x512 800x1344)',
    )
    add(
        '--tasks',
        nargs='+',
        choices=('eval', 'train'),
        default=['eval', 'train'],
        help='eval: forward; train: forward and backward (default: both)',
    )
    add('--repeats', type=int, default=3, metavar='N', help='default: 3')
    add('--batch', type=int, default=1, metavar='N', help='images (default: 1)')
    add('--device', choices=('cpu', 'cuda'), default='cpu', help='default: cpu')
    add(
        '--dtype',
        choices=('float32', 'bfloat16', 'float16'),
        default='float32',
        help='of autocast; float32 is without (default: float32)',
    )
    add('--with-cp', action='store_true', help='recompute blocks in backward')
    add('--compile', action='store_true', help='torch.compile each network')
    add('--out', type=Path, default=Path('work_dirs/benchmark'), metavar='OUT')
    args = parser.parse_args()
    if args.with_cp and 'PVTv2-B2' in args.networks:
        parser.error('PVTv2-B2 has no with_cp: name other networks with --networks')
    return args


def shape(text: str) -> tuple[int, int]:
    """Parse a size such as 800x1344."""
    if not re.fullmatch(r'\d+x\d+', text):
        raise argparse.ArgumentTypeError(f'{text!r} is not a size such as 800x1344')
    height, width = map(int, text.split('x'))
    return height, width


def jobs(args: argparse.Namespace) -> Iterator[Job]:
    """Yield the measurements; the networks take turns within each repeat."""
    machine = dict(device=args.device, dtype=args.dtype)
    options = dict(batch=args.batch, with_cp=args.with_cp, compile=args.compile)

    def each(task: str) -> Iterator[Job]:
        for (height, width), name in itertools.product(args.shapes, args.networks):
            yield dict(task=task, network=name, height=height, width=width) | machine

    yield from each('count')
    for _ in range(args.repeats):
        yield dict(task='matmul') | machine
        for task in args.tasks:
            yield from (job | options for job in each(task))


def measure(job: Job) -> Job:
    """Run one job in its own process and return its result."""
    order = job | dict(network=NETWORKS.get(job.get('network')))
    command = [sys.executable, '-m', 'parts.benchmark_worker', json.dumps(order)]
    folder = Path(__file__).parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        fail(f'{job} failed:\n{done.stderr}')
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == '__main__':
    main()
