"""Time `read_checkpoint` and ``torch.load`` in turns on a CrossFormer-S classifier.

python -m tests.checkpoint.time_reading
"""

import statistics
import tempfile
import time
from pathlib import Path

import torch

from crossformer_mm.checkpoint import read_checkpoint
from tests.checkpoint import kinds

TIMES = 40


def milliseconds(load, path):
    start = time.perf_counter()
    load(path)
    return 1000 * (time.perf_counter() - start)


def torch_load(path):
    torch.load(path, map_location='cpu', weights_only=False)


def main():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'classifier.pth')
        kinds.classifier(path, 'S')
        loads = (read_checkpoint, torch_load)
        rows = [[milliseconds(f, str(path)) for f in loads] for _ in range(TIMES)]
        ours, theirs = (statistics.median(column) for column in zip(*rows))
    print(f'{ours:.1f} ms, torch.load {theirs:.1f} ms: {ours / theirs:.2f} times')


if __name__ == '__main__':
    main()
