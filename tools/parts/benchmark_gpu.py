"""The GPU measurements of `benchmark.py`, in one process.

Needs only torch, MMEngine and the plugin, installed or on PYTHONPATH. Swin-T comes from
torchvision and is left out if that is not installed.
"""

import csv
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import crossformer_mm
from crossformer_mm.ops.blockwise_attention import attention, plain_attention
from crossformer_mm.ops.partition import Grouping

from .output import complete

DENSE = dict(group_size=(7, 7, 7, 7), crs_interval=(8, 4, 2, 1))
DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16}
SHAPES = [(800, 1344), (512, 512)]
BATCHES = [1, 2, 8]
BUDGETS = [8, 24, 80]  # GiB
SECONDS = 0.5  # a step is repeated for this long
# Includes N = 704 and 1088: with N % 128 = 64 and a mask, cuDNN's backward pass gives
# NaN (pytorch/pytorch#196678). The plugin does not use it.
GROUPS = [
    Grouping(7, 7, 1),
    Grouping(22, 32, 2),
    Grouping(32, 34, 1),
    Grouping(25, 42, 8),
]
COLUMNS = ['network', 'shape', 'batch', 'dtype', 'task', 'ms', 'peak MiB']


def networks() -> dict[str, Callable[[], nn.Module]]:
    """Return a constructor for each network, by name."""
    result: dict[str, Callable[[], nn.Module]] = {
        f'CrossFormer-S {mode}': lambda mode=mode: crossformer_mm.CrossFormer_S(
            lda_mode=mode, **DENSE
        )
        for mode in ('interval', 'group')
    }
    try:
        from torchvision.models import swin_t
    except (ImportError, RuntimeError):
        print('Swin-T is left out: torchvision cannot be imported.')
        return result
    swin = {'Swin-T (torchvision)': lambda: swin_t(stochastic_depth_prob=0.2).features}
    return swin | result


def run(out: Path, device: str = 'cuda') -> None:
    """Check gradients, time steps and find the largest batches; print the results."""
    out.mkdir(parents=True, exist_ok=True)
    if device == 'cuda':
        print(f'{torch.cuda.get_device_name()}, torch {torch.__version__}')
    for line in check_gradients(device):
        print(line)
    rows = []
    for name, make in networks().items():
        model = make().to(device)
        rows += measure(name, model, device)
        if device == 'cuda':
            rows += largest_batches(name, model)
        del model
    with (
        complete(out / 'benchmark_gpu.csv') as part,
        part.open('w', newline='') as file,
    ):
        writer = csv.writer(file)
        writer.writerows([COLUMNS, *rows])
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*map(str, row))
    Console(width=100).print(table)


def check_gradients(device: str) -> Iterator[str]:
    """Compare blockwise attention with the plain formula; yield one line per case."""
    for grouping, (name, dtype) in itertools.product(GROUPS, DTYPES.items()):
        rows, cols, interval = grouping
        torch.manual_seed(0)
        # One column less than full windows, so that padding is needed.
        qkv = torch.randn(
            1, rows * interval, cols * interval - 1, 3 * 64, device=device
        ).to(dtype)
        table = torch.randn(2, 2 * rows - 1, 2 * cols - 1, device=device)
        results = []
        for attend, kind in ((attention, dtype), (plain_attention, torch.float64)):
            tensors = [m.to(kind).requires_grad_() for m in (qkv, table)]
            y = attend(*tensors, grouping, 2, 0.2)
            results.append([y, *torch.autograd.grad(y.square().sum(), tensors)])
        errors = [((a.double() - b).std() / b.std()).item() for a, b in zip(*results)]
        parts = zip(('values', 'of qkv', 'of the bias'), errors)
        text = ', '.join(f'{part} {error:.1e}' for part, error in parts)
        yield f'attention, N = {rows * cols}, {name}: error {text}'


def measure(name: str, model: nn.Module, device: str) -> list[list[Any]]:
    """Return the rows of timed steps of one network."""
    rows = []
    for shape, batch, dtype in itertools.product(SHAPES, BATCHES, DTYPES):
        for task in ('eval', 'train'):
            step = make_step(model, batch, shape, DTYPES[dtype], task, device)
            try:
                milliseconds, peak = time_step(step, device)
            except torch.cuda.OutOfMemoryError:
                milliseconds, peak = 'out of memory', ''
            size = f'{shape[0]} x {shape[1]}'
            rows.append([name, size, batch, dtype, task, milliseconds, peak])
    return rows


def largest_batches(name: str, model: nn.Module) -> list[list[Any]]:
    """Return rows with the largest training batch at 800 x 1344 per memory budget."""
    total = torch.cuda.get_device_properties(0).total_memory / 2**30
    rows = []
    for budget in BUDGETS:
        torch.cuda.set_per_process_memory_fraction(min(budget / total, 1.0))

        def fits(batch: int) -> bool:
            dtype = torch.bfloat16
            try:
                make_step(model, batch, SHAPES[0], dtype, 'train', 'cuda')()
                return True
            except torch.cuda.OutOfMemoryError:
                return False
            finally:
                model.zero_grad()
                torch.cuda.empty_cache()

        memory = f'largest batch in {min(budget, total):.0f} GiB'
        row = [name, '800 x 1344', largest(fits), 'bfloat16', 'train', memory, '']
        rows.append(row)
    torch.cuda.set_per_process_memory_fraction(1.0)
    return rows


def largest(fits: Callable[[int], bool]) -> int:
    """Return the largest number that fits, or 0 if 1 does not."""
    above = 1
    while fits(above):
        above *= 2
    below = above // 2
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if fits(middle) else (below, middle)
    return below


def make_step(
    model: nn.Module,
    batch: int,
    shape: tuple[int, int],
    dtype: torch.dtype,
    task: str,
    device: str,
) -> Callable[[], None]:
    """Return a function that runs forward, and backward in training, under autocast."""
    model.train(task == 'train')
    images = torch.rand(batch, 3, *shape, device=device)
    reduced = None if dtype == torch.float32 else dtype

    def step() -> None:
        with (
            torch.set_grad_enabled(task == 'train'),
            torch.autocast(device, reduced, enabled=bool(reduced)),
        ):
            maps = model(images)
            maps = [maps] if isinstance(maps, Tensor) else maps
            loss = sum(x.float().mean() for x in maps)
        if task == 'train':
            model.zero_grad()
            loss.backward()

    return step


def time_step(step: Callable[[], None], device: str) -> tuple[float, int]:
    """Return a step's median time in milliseconds and its peak memory in MiB."""
    cuda = torch.cuda if device == 'cuda' else None
    step()
    if cuda:
        cuda.synchronize()
        cuda.reset_peak_memory_stats()
    seconds: list[float] = []
    while sum(seconds) < SECONDS:
        start = time.perf_counter()
        step()
        if cuda:
            cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    peak = cuda.max_memory_allocated() >> 20 if cuda else 0
    return round(1000 * sorted(seconds)[len(seconds) // 2], 1), peak
