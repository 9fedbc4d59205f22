"""Compare an ONNX file with PyTorch at random sizes, and time both.

    python tools/onnx_agreement.py CONFIG CHECKPOINT OUT.onnx --sizes 50

export_onnx.py compares three sizes; this command compares --sizes of them, drawn
between 96 and 1400 pixels. ONNX Runtime and PyTorch use the same number of threads.
"""

import argparse
from pathlib import Path

import numpy as np
from mmengine.config import Config

from parts.onnx_agreement import compare, load, open_session


def main() -> None:
    """Compare both at random sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add('config', metavar='CONFIG', type=Path)
    add('checkpoint', metavar='CHECKPOINT', type=Path)
    add('out', metavar='OUT.onnx', type=Path)
    add('--sizes', type=int, default=50, help='how many (default: 50)')
    add('--longest', type=int, default=1400, help='default: 1400')
    add('--shape', metavar=('H', 'W'), type=int, nargs=2, help='this size each time')
    args = parser.parse_args()
    model, _ = load(Config.fromfile(args.config), args.checkpoint)
    session = open_session(args.out)
    draw = np.random.default_rng(0)
    for _ in range(args.sizes):
        size = args.shape or draw.integers(96, args.longest + 1, 2)
        print(compare(model, session, tuple(map(int, size)))[0], flush=True)


if __name__ == '__main__':
    main()
