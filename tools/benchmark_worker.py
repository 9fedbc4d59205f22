"""Make one measurement of `benchmark.py` in this process and print it as JSON."""

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import mmdet.models  # noqa: F401 - registers the other backbones
import psutil
import torch
from mmengine.registry import MODELS
from model_cost import flop_counter
from torch import Tensor, nn

import crossformer_mm  # noqa: F401 - registers CrossFormer

Job = dict[str, Any]
MEBIBYTE = 1024**2
SECONDS = 2  # to repeat a fast step for
MATRIX = 4096


def main() -> None:
    """Do the job of the command line."""
    job = json.loads(sys.argv[1])
    torch.manual_seed(0)
    tasks = dict(count=count, matmul=matmul, eval=steps, train=steps, fit=fit)
    print(json.dumps(tasks[job['task']](job)))


def count(job: Job) -> Job:
    """Count the multiply-adds of a forward pass of one image, in 10^9."""
    model = build(job | dict(device='cpu', compile=False))
    model.eval()
    with torch.no_grad(), flop_counter() as counter:
        model(torch.rand(1, 3, job['height'], job['width']))
    return dict(gmacs=counter.get_total_flops() / 2e9)


def matmul(job: Job) -> Job:
    """Measure the best rate of a large matrix product, in 10^9 operations a second."""
    dtype = getattr(torch, job['dtype'])
    a, b = torch.rand(2, MATRIX, MATRIX, device=job['device']).to(dtype)
    seconds = min(timed(lambda: a @ b, job['device']))
    return dict(gflops=2 * MATRIX**3 / seconds / 1e9)


def steps(job: Job) -> Job:
    """Time a step and measure its peak memory, in MiB.

    On a CPU that is the peak of the process's resident set; ``idle_mib`` of it were
    there before the network. On a GPU it is what torch has allocated.
    """
    idle = psutil.Process().memory_info().rss
    step = make_step(build(job), job)
    seconds = sorted(timed(step, job['device']))
    if job['device'] == 'cuda':
        idle, peak = 0, torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return dict(
        seconds=seconds[len(seconds) // 2],
        peak_mib=peak / MEBIBYTE,
        idle_mib=idle / MEBIBYTE,
    )


def fit(job: Job) -> Job:
    """Find the largest batch of a training step in ``fit_gib`` of GPU memory."""
    share = job['fit_gib'] * 1024**3 / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(share, 1.0))
    model = build(job)

    def fits(batch: int) -> bool:
        try:
            make_step(model, job | dict(task='train', batch=batch))()
        except torch.cuda.OutOfMemoryError:
            return False
        finally:
            model.zero_grad()
            torch.cuda.empty_cache()
        return True

    return dict(largest_batch=largest(fits))


def largest(fits: Callable[[int], bool]) -> int:
    """Find the largest number that fits, 0 where 1 does not."""
    above = 1
    while fits(above):
        above *= 2
    below = above // 2
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if fits(middle) else (below, middle)
    return below


def build(job: Job) -> nn.Module:
    """Build the job's network on its device."""
    with_cp = dict(with_cp=True) if job.get('with_cp') else {}  # not all know it
    model = MODELS.build(job['network'] | with_cp)
    model.to(job['device'])
    return torch.compile(model) if job['compile'] else model


def make_step(model: nn.Module, job: Job) -> Callable[[], None]:
    """Return what is timed: a forward pass, in training the backward pass as well."""
    train = job['task'] == 'train'
    model.train(train)
    shape = job['batch'], 3, job['height'], job['width']
    images = torch.rand(shape, device=job['device'])
    dtype = getattr(torch, job['dtype'])

    def step() -> None:
        with (
            torch.set_grad_enabled(train),
            torch.autocast(job['device'], dtype, enabled=dtype != torch.float32),
        ):
            maps: tuple[Tensor, ...] = model(images)
            loss = sum(x.float().mean() for x in maps)
        if train:
            model.zero_grad()
            loss.backward()

    return step


def timed(step: Callable[[], Any], device: str) -> list[float]:
    """Time a step again and again, after one in which everything is set up."""

    def once() -> float:
        start = time.perf_counter()
        step()
        if device == 'cuda':
            torch.cuda.synchronize()
        return time.perf_counter() - start

    once()
    seconds = [once()]
    while sum(seconds) < SECONDS:
        seconds.append(once())
    return seconds


if __name__ == '__main__':
    main()
