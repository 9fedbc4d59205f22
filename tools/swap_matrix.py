"""Swap the backbone in one config of each model family.

    python tools/swap_matrix.py --out work_dirs/swap_matrix
    python tools/swap_matrix.py --out work_dirs/swap_matrix --table docs/swap_matrix.md

A family is a folder of configs of MMDetection or MMSegmentation. From each, one config
is chosen, with ResNet-50 or Swin-T if possible. Its swapped version is written to OUT
and runs a training step and a prediction on synthetic images. The result is appended to
OUT/results.jsonl; families in that file are not run again. ``--only NAME ...`` selects
families, ``--part I N`` every N-th, starting at the I-th.
"""

import argparse
import json
import multiprocessing
import re
import resource
import time
import warnings
from pathlib import Path
from typing import Any

import mmdet.models
import mmdet.structures
import mmseg.models
import mmseg.structures
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from crossformer_mm.swap.dry_run import SIDE, first_line, predict, small_model, step
from crossformer_mm.swap.rules import SwapError, read, swap

PACKAGES = {'mmdet': mmdet, 'mmseg': mmseg}
# Folders without models of their own.
NO_FAMILY = ('_base_', 'common', 'dsdl')
SECONDS = 300  # limit of CPU time per family
COLUMNS = ('swapped', 'step', 'gradients', 'predict')
START, END = '<!-- matrix -->', '<!-- end of matrix -->'


def main() -> None:
    """Run the families without a result and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=Path('work_dirs/swap_matrix'))
    parser.add_argument('--backbone', default='CrossFormer_S')
    parser.add_argument('--side', type=int, default=SIDE, help='of the images')
    parser.add_argument(
        '--only', nargs='+', metavar='NAME', help='such as mmdet or mmseg/fcn'
    )
    parser.add_argument('--part', nargs=2, type=int, metavar=('I', 'N'), default=(0, 1))
    parser.add_argument('--table', type=Path, help='a page whose table is replaced')
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    log = args.out / 'results.jsonl'
    results = read_results(log)
    wanted = families()[args.part[0] :: args.part[1]]
    if args.only:
        starts = [f'{name}/'.replace('//', '/') for name in args.only]
        wanted = [
            row for row in wanted if f'{row["family"]}/'.startswith(tuple(starts))
        ]
    for row in wanted:
        if row['family'] in results:
            continue
        row = run_in_subprocess(row, args.backbone, args.out, args.side)
        print(table_row(row), flush=True)
        with log.open('a') as file:
            file.write(json.dumps(row) + '\n')
    results = read_results(log)
    if args.table:
        page = args.table.read_text()
        before, _, rest = page.partition(START)
        after = rest.partition(END)[2]
        args.table.write_text(f'{before}{START}\n{table(results)}\n{END}{after}')


def read_results(log: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of a log by family; a later row replaces an earlier one."""
    lines = log.read_text().splitlines() if log.exists() else []
    return {row['family']: row for row in map(json.loads, lines)}


def families() -> list[dict[str, Any]]:
    """Choose one config from each folder of the two packages."""
    chosen = []
    for name, package in PACKAGES.items():
        configs = Path(package.__file__).parent / '.mim' / 'configs'
        for folder in sorted(configs.iterdir()):
            files = sorted(path.name for path in folder.glob('*.py'))
            if folder.name not in NO_FAMILY and files:
                best = min(files, key=preference)
                config = f'{name}::{folder.name}/{best}'
                if not re.fullmatch(r'\w+', folder.name):  # MMEngine rejects it
                    config = str(folder / best)
                chosen.append(dict(family=f'{name}/{folder.name}', config=config))
    return chosen


def preference(file: str) -> tuple[bool, bool, bool, str]:
    """Return a sort key: ResNet-50 or Swin-T first, then standard schedules."""
    network = re.search(r'r50|swin-t|swin-tiny', file) is None
    return (
        network,
        'caffe' in file,
        '_1x_coco' not in file and 'ade20k' not in file,
        file,
    )


def run_in_subprocess(
    row: dict[str, Any], backbone: str, out: Path, side: int
) -> dict[str, Any]:
    """Run a family in its own process, since it may crash or take too long."""
    start = time.perf_counter()
    queue = multiprocessing.SimpleQueue()
    process = multiprocessing.Process(
        target=run, args=(row, backbone, out, side, queue)
    )
    process.start()
    process.join()
    if queue.empty():
        row = dict(row, reason=f'ended by {process.exitcode} or took {SECONDS} s')
    else:
        row = queue.get()
    return dict(row, seconds=round(time.perf_counter() - start))


def run(
    row: dict[str, Any],
    backbone: str,
    out: Path,
    side: int,
    queue: multiprocessing.SimpleQueue,
) -> None:
    """Swap a config, run a training step and a prediction, and report the outcome."""
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    warnings.simplefilter('ignore')
    MMLogger.get_instance('swap', log_level='CRITICAL')
    torch.set_num_threads(1)  # use more cores by running several --part in parallel
    torch.manual_seed(0)
    row = dict(row, file=row['family'].replace('/', '_') + '.py')
    (out / row['file']).unlink(missing_ok=True)
    refused = False
    try:
        result = swap(row['config'], backbone, out / row['file'], side)
        row |= dict(swapped=True, step=True, gradients=not result.without_gradient)
        row['without_gradient'] = len(result.without_gradient)
        predict(*small_model(Config.fromfile(out / row['file']), side, images=1))
        row['predict'] = True
    except SwapError as error:
        row['reason'] = str(error)
        refused = error.__cause__ is None  # by a rule, before running the model
    except Exception as error:
        row['reason'] = f'predict: {first_line(error)}'
    if ('reason' in row or not row.get('gradients')) and not refused:
        row['stock'] = run_stock(row['config'], side)
    queue.put(row)


def run_stock(config: str, side: int) -> str:
    """Run the config without a swap and return the outcome."""
    try:
        model, batch = small_model(read(config), side)
        result = step(model, batch)
        predict(model, {key: items[:1] for key, items in batch.items()})
    except Exception as error:
        return first_line(error)
    without = len(result.without_gradient)
    return f'{without} without a gradient' if without else 'works'


def table_row(row: dict[str, Any]) -> str:
    """Return a result as a row of the table."""
    cells = ['yes' if row.get(column) else '–' for column in COLUMNS]
    reason = row.get('reason', '')
    if row.get('without_gradient'):
        reason = f'{row["without_gradient"]} parameters get no gradient'
    if row.get('stock'):
        reason += f' (stock: {row["stock"]})'
    name = '/'.join(re.split('::|/', row['config'])[-2:])
    cells = [row['family'], f'`{name}`', *cells, reason.replace('|', '/')]
    return f'| {" | ".join(cells)} |'


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return a table of the results for each package, with counts."""
    lines = []
    for package in PACKAGES:
        rows = [row for row in results.values() if row['family'].startswith(package)]
        good = sum(bool(row.get('predict')) for row in rows)
        head = ('family', 'config', *COLUMNS, 'remark')
        lines += [f'{package}: {good} of {len(rows)} families.', '']
        lines += [f'| {" | ".join(head)} |', '|---' * len(head) + '|']
        lines += [table_row(row) for row in sorted(rows, key=lambda row: row['family'])]
        lines.append('')
    return '\n'.join(lines)


if __name__ == '__main__':
    multiprocessing.set_start_method('fork')
    main()
