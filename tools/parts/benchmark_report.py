"""The table and the plot of a `benchmark.csv`.

The plot shows time and memory over the number of pixels, with the exponent of a fitted
power law: 1 is linear.
"""

import csv
import statistics
import sys
from collections import defaultdict
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from .output import save_figure

WIDTH = 120
TASKS = {'eval': 'forward', 'train': 'forward and backward'}
Rows = list[dict[str, str]]
# (network, (height, width), task) to a median.
Medians = dict[tuple[str, tuple[int, int], str], float]


def report(path: Path) -> None:
    """Print the table of a file of measurements and save the plot beside it."""
    with path.open(newline='') as file:
        rows = list(csv.DictReader(file))
    picture = path.with_suffix('.png')
    # Without a terminal, rich would assume 80 columns.
    width = None if sys.stdout.isatty() else WIDTH
    Console(width=width).print(table(rows))
    save_figure(draw(rows), picture)
    print(f'Measurements: {path}\nPicture: {picture}')


def medians(rows: Rows, column: str) -> Medians:
    """Return the medians of a column over the repeats."""
    values = defaultdict(list)
    for row in rows:
        if row[column]:
            size = int(row['height'] or 0), int(row['width'] or 0)
            values[row['network'], size, row['task']].append(float(row[column]))
    return {key: statistics.median(group) for key, group in values.items()}


def table(rows: Rows) -> Table:
    """Return a table of medians, their ratios to the first network, and the rates."""
    settings = next(row for row in rows if row['task'] in TASKS)
    seconds, memory = medians(rows, 'seconds'), medians(rows, 'peak_mib')
    macs = medians(rows, 'gmacs')
    (rate,) = medians(rows, 'gflops').values()
    batch, first = int(settings['batch']), settings['network']
    result = Table(
        title=f'{describe(settings)}; {rate:.0f} GFLOP/s in a matrix product',
        caption=f'x: ratio to {first}. Rate: multiply-adds of one forward pass, three '
        'in training, against the matrix product.',
    )
    for name in ('task', 'size', 'network'):
        result.add_column(name, no_wrap=True)
    for name in ('ms', 'x', 'MiB', 'x', 'images/s', 'rate'):
        result.add_column(name, justify='right', no_wrap=True)
    order = sorted(seconds, key=lambda key: (key[2], key[1]))  # task, then size
    for (task, size), keys in groupby(order, key=lambda key: (key[2], key[1])):
        time, space = seconds[first, size, task], memory[first, size, task]
        passes = 3 if task == 'train' else 1
        for key in keys:
            network = key[0]
            gflop = 2 * macs[network, size, 'count'] * passes * batch
            result.add_row(
                *(task, f'{size[0]} x {size[1]}', network),
                *(f'{seconds[key] * 1000:.0f}', f'{seconds[key] / time:.2f}'),
                *(f'{memory[key]:.0f}', f'{memory[key] / space:.2f}'),
                f'{batch / seconds[key]:.2f}',
                f'{gflop / seconds[key] / rate:.0%}',
            )
        result.add_section()
    return result


def describe(settings: dict[str, str]) -> str:
    """Describe the settings shared by all measurements."""
    options = [name for name in ('with_cp', 'compile') if settings[name] == 'True']
    batch = f'batch {settings["batch"]}'
    return ', '.join([settings['device'], settings['dtype'], batch, *options])


def draw(rows: Rows) -> Figure:
    """Plot time and memory over the number of pixels."""
    tasks = [task for task in TASKS if any(row['task'] == task for row in rows)]
    networks = list(dict.fromkeys(row['network'] for row in rows if row['network']))
    figure = Figure(figsize=(11, 4.5 * len(tasks)), dpi=150, layout='constrained')
    axes = figure.subplots(len(tasks), 2, squeeze=False)
    seconds, memory = medians(rows, 'seconds'), medians(rows, 'peak_mib')
    idle = medians(rows, 'idle_mib')
    memory = {key: value - idle[key] for key, value in memory.items()}
    for task, pair in zip(tasks, axes):
        for ax, values, unit in zip(
            pair, (seconds, memory), ('time, s', 'memory, MiB')
        ):
            for network in networks:
                sizes = sorted(s for n, s, t in values if (n, t) == (network, task))
                pixels = [height * width / 1e6 for height, width in sizes]
                ys = [values[network, size, task] for size in sizes]
                label = network
                if len(sizes) > 1:
                    label += f': exponent {exponent(pixels, ys):.2f}'
                ax.loglog(pixels, ys, 'o-', label=label)
            ax.set(xlabel='megapixels', ylabel=f'{unit}, {TASKS[task]}')
            ax.grid(which='both', alpha=0.25)
            ax.spines[['top', 'right']].set_visible(False)
            ax.legend(frameon=False)
    return figure


def exponent(pixels: list[float], values: list[float]) -> float:
    """Fit ``value = a * pixels ** exponent`` by least squares in log space."""
    return float(np.polyfit(np.log(pixels), np.log(values), 1)[0])
