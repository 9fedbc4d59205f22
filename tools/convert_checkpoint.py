"""Convert a CrossFormer checkpoint for OpenMMLab, or back for the original code.

    python tools/convert_checkpoint.py SRC DST
    python tools/convert_checkpoint.py SRC --inspect

SRC is any published file, or one of MMEngine or MMCV 1.x, in the format of torch.save
or safetensors. DST becomes what SRC holds: a backbone, a classifier (for MMPretrain), a
detector (for MMDetection 3.x) or a segmentor (for MMSegmentation 1.x); --to chooses
another. Nothing in SRC is executed, and DST is written completely or not at all.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from crossformer_mm.checkpoint.convert import (
    TARGETS,
    check_target,
    convert,
    make_meta,
    report_file,
    report_network,
    sha256,
    write_checkpoint,
)
from crossformer_mm.checkpoint.errors import CheckpointError, naming
from crossformer_mm.checkpoint.reader import read_checkpoint
from crossformer_mm.checkpoint.recognize import recognize
from parts.output import fail


def main() -> None:
    """Read, report and write."""
    args = parse_args()
    try:
        run(args.src, args.dst, args.to, args.publish)
    except CheckpointError as error:
        fail(str(error))


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('src', metavar='SRC', type=Path, help='the checkpoint')
    parser.add_argument(
        'dst', metavar='DST', type=Path, nargs='?', help='new .pth or .safetensors file'
    )
    parser.add_argument(
        '--to',
        choices=TARGETS,
        help='what to make of SRC; "original" is for the original code '
        '(default: what it holds)',
    )
    parser.add_argument(
        '--inspect', action='store_true', help='report on SRC, write nothing'
    )
    parser.add_argument(
        '--publish',
        action='store_true',
        help='put the first eight digits of its SHA-256 into the name of DST',
    )
    args = parser.parse_args()
    if args.inspect == (args.dst is not None):
        parser.error('give either DST or --inspect')
    return args


def run(src: Path, dst: Path | None, target: str | None, publish: bool) -> None:
    """Report on SRC and write DST, if it is given.

    Raises:
        CheckpointError: If SRC cannot be used or DST cannot be written.
    """
    if dst is not None:
        with naming(dst):
            check_target(dst)
    with naming(src):
        content = read_checkpoint(str(src))
        network = recognize(content)
        target = target or network.kind
        if dst is not None and dst.suffix == '.safetensors' and target != 'backbone':
            raise CheckpointError(
                f'cannot become a .safetensors file as a {target}, which OpenMMLab '
                'could not load: take .pth, or only the backbone by --to backbone.'
            )
        digest = sha256(src)
        print_lines(report_file('file', src, digest))
        print_lines(report_network(network, target))
        meta = make_meta(network, target, src.name, digest, content.get('meta'))
        content = convert(network, target, meta)
    if dst is not None:
        with naming(dst):
            dst = write_checkpoint(content, dst, publish)
        print_lines(report_file('written', dst, sha256(dst)))


def print_lines(lines: Iterable[str]) -> None:
    """Print line by line."""
    for line in lines:
        print(line)


if __name__ == '__main__':
    main()
