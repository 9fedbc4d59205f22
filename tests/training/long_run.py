"""Train the mini detector for 2,000 iterations and record its memory.

    python tests/training/long_run.py data/mini_coco work_dirs/long_run

Not part of the tests: it takes half an hour on two cores. It plots the losses, the AP
and the resident set over time to `long_run.png`, and prints the AP, the warnings in the
log and the memory growth after the first tenth.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
from matplotlib.figure import Figure

CONFIG = (
    Path(__file__).parents[2] / 'configs' / 'mask_rcnn_crossformer_t_fpn_mini_coco.py'
)
EPOCHS = 20
MIM = Path(sys.executable).with_name('mim')
MEBIBYTE = 1024**2
SECONDS = 5  # between two memory samples


def main() -> None:
    """Train, then draw and report."""
    data, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True)
    schedule = [f'train_cfg.max_epochs={EPOCHS}', f'param_scheduler.1.end={EPOCHS}']
    command = [MIM, 'train', 'mmdet', CONFIG, '--work-dir', folder, '--cfg-options']
    memory = []
    with (folder / 'output.log').open('w') as log:
        process = subprocess.Popen(
            [*map(str, command), *schedule],
            env={**os.environ, 'COCO_ROOT': str(data)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        start = time.monotonic()
        while process.poll() is None:
            memory.append((time.monotonic() - start, resident(process.pid)))
            time.sleep(SECONDS)
    if process.returncode:
        sys.exit(f'training failed: {folder / "output.log"}')
    (scalars,) = folder.glob('*/vis_data/scalars.json')
    records = [json.loads(line) for line in scalars.read_text().splitlines()]
    draw(records, memory).savefig(folder / 'long_run.png')
    report(records, memory, (folder / 'output.log').read_text())


def resident(pid: int) -> float:
    """Return the total resident set of a process and its children, in MiB."""
    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
        return sum(process.memory_info().rss for process in family) / MEBIBYTE
    except psutil.NoSuchProcess:
        return 0.0


def draw(records: list[dict], memory: list[tuple[float, float]]) -> Figure:
    """Plot losses, AP and memory."""
    figure = Figure(figsize=(14, 4), dpi=150, layout='constrained')
    losses, precision, resident_set = figure.subplots(1, 3)
    steps = [r for r in records if 'loss' in r]
    losses.plot([r['step'] for r in steps], [r['loss'] for r in steps], color='black')
    losses.set(title='loss', xlabel='iteration', yscale='log')
    tests = [r for r in records if 'coco/bbox_mAP' in r]
    epochs = [r['step'] for r in tests]
    for kind in ('bbox', 'segm'):
        values = [r[f'coco/{kind}_mAP'] for r in tests]
        precision.plot(epochs, values, 'o-', label=f'{kind}: {values[-1]:.3f}')
    precision.set(title='AP', xlabel='epoch', ylim=(0, 1))
    precision.legend(frameon=False)
    minutes, mib = [t / 60 for t, _ in memory], [m for _, m in memory]
    resident_set.plot(minutes, mib, color='C2')
    resident_set.set(title='resident set, MiB', xlabel='minute', ylim=(0, None))
    return figure


def report(records: list[dict], memory: list[tuple[float, float]], log: str) -> None:
    """Print duration, memory growth, AP and warnings."""
    late = [m for _, m in memory][len(memory) // 10 : -1]
    third = len(late) // 3
    first, last = (sorted(part)[third // 2] for part in (late[:third], late[-third:]))
    print(f'{memory[-1][0] / 60:.1f} min')
    print(f'resident set, median: {first:.0f} MiB early, {last:.0f} MiB late')
    print(f'largest: {max(late):.0f} MiB')
    for record in records:
        if 'coco/bbox_mAP' in record:
            step, box = record['step'], record['coco/bbox_mAP']
            print(f'epoch {step}: box AP {box}, mask AP {record["coco/segm_mAP"]}')
    warnings = [line for line in log.splitlines() if 'warn' in line.lower()]
    print(f'{len(warnings)} lines of the log with a warning')
    for line in sorted(set(warnings)):
        print('  ', line[:160])


if __name__ == '__main__':
    main()
