"""Run one measurement of `benchmark.py` in this process and print it as JSON."""

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
from torch import nn

from crossformer_mm.ops import accelerate_cpu

from .benchmark_gpu import make_step
from .model_cost import flop_counter

Job = dict[str, Any]
MEBIBYTE = 1024**2
SECONDS = 2  # a fast step is repeated for this long
MATRIX = 4096


def main() -> None:
    """Run the job given on the command line."""
    job = json.loads(sys.argv[1])
    torch.manual_seed(0)
    tasks = dict(count=count, matmul=matmul, eval=steps, train=steps)
    print(json.dumps(tasks[job['task']](job)))


def count(job: Job) -> Job:
    """Count the multiply-adds of a forward pass of one image, in 10^9."""
    model = build(job | dict(compile=False))
    model.eval()
    with torch.no_grad(), flop_counter() as counter:
        model(torch.rand(1, 3, job['height'], job['width']))
    return dict(gmacs=counter.get_total_flops() / 2e9)


def matmul(job: Job) -> Job:
    """Measure the best rate of a large matrix product, in GFLOP/s."""
    dtype = getattr(torch, job['dtype'])
    a, b = torch.rand(2, MATRIX, MATRIX).to(dtype)
    seconds = min(time_steps(lambda: a @ b))
    return dict(gflops=2 * MATRIX**3 / seconds / 1e9)


def steps(job: Job) -> Job:
    """Time a step and measure the peak resident memory of the process, in MiB.

    ``idle_mib`` is the resident memory before the network is built.
    """
    idle = psutil.Process().memory_info().rss
    size, dtype = (job['height'], job['width']), getattr(torch, job['dtype'])
    step = make_step(build(job), job['batch'], size, dtype, job['task'], 'cpu')
    seconds = sorted(time_steps(step))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return dict(
        seconds=seconds[len(seconds) // 2],
        peak_mib=peak / MEBIBYTE,
        idle_mib=idle / MEBIBYTE,
    )


def build(job: Job) -> nn.Module:
    """Build the job's network."""
    network = dict(job['network'])
    accelerate = network.pop('accelerate', False)
    if job.get('with_cp'):  # not supported by all networks
        network['with_cp'] = True
    model = accelerate_cpu(MODELS.build(network), accelerate)
    return torch.compile(model) if job['compile'] else model


def time_steps(step: Callable[[], Any]) -> list[float]:
    """Return the times of repeated runs of a step, after a warm-up run."""

    def once() -> float:
        start = time.perf_counter()
        step()
        return time.perf_counter() - start

    once()
    seconds = [once()]
    while sum(seconds) < SECONDS:
        seconds.append(once())
    return seconds


if __name__ == '__main__':
    main()
