"""Convert a CrossFormer checkpoint between formats, or inspect it.

    python tools/convert_checkpoint.py SRC DST
    python tools/convert_checkpoint.py SRC --inspect

SRC is a published checkpoint, or one written by MMEngine or MMCV 1.x, in the format of
torch.save or safetensors. By default DST holds the same kind of network: a backbone, a
classifier (for MMPretrain), a detector (for MMDetection 3.x) or a segmentor (for
MMSegmentation 1.x). --to selects another target, such as the original code. No code in
SRC is executed, and DST is written completely or not at all.
"""

import argparse
from collections import defaultdict
from pathlib import Path

from crossformer_mm.checkpoint.convert import (
    TARGETS,
    check_target,
    compare_with_variant,
    convert,
    make_meta,
    select,
    sha256,
    write_checkpoint,
)
from crossformer_mm.checkpoint.errors import (
    CheckpointError,
    error_context,
    first_few,
    one_line,
)
from crossformer_mm.checkpoint.reader import read_checkpoint
from crossformer_mm.checkpoint.recognize import (
    Network,
    count_stages,
    full_name,
    recognize,
)
from crossformer_mm.checkpoint.weights import precision
from parts.output import fail


def main() -> None:
    """Run the command; print an error as one line."""
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
        with error_context(dst):
            check_target(dst)
    with error_context(src):
        content = read_checkpoint(str(src))
        network = recognize(content)
        target = target or network.kind
        if dst is not None and dst.suffix == '.safetensors' and target != 'backbone':
            raise CheckpointError(
                f'cannot become a .safetensors file as a {target}, which OpenMMLab '
                'could not load: take .pth, or only the backbone by --to backbone.'
            )
        digest = sha256(src)
        report_file('file', src, digest)
        report_network(network, target)
        meta = make_meta(network, target, src.name, digest, content.get('meta'))
        content = convert(network, target, meta)
    if dst is not None:
        with error_context(dst):
            dst = write_checkpoint(content, dst, publish)
        report_file('written', dst, sha256(dst))


def report_file(label: str, path: Path, digest: str) -> None:
    """Print the size and hash of a file."""
    report(label, f'{path}, {path.stat().st_size:,} bytes')
    report('SHA-256', digest)


def report_network(network: Network, target: str) -> None:
    """Print the network found in SRC and which of its weights ``target`` uses."""
    weights = select(network, target)
    values = sum(tensor.numel() for tensor in weights.values()) / 1e6
    used = f'{len(weights)} tensors, {values:.1f} M values{precision(weights)}'
    report('kind', network.kind)
    report('variant', full_name(network.variant))
    report('stages', str(count_stages(network.backbone)))
    report('used', f'{used} for the {target}')
    unused = network.rest.keys() - weights.keys()
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, reason in network.dropped.items():
        by_reason[reason].append(name)
    if unused:
        by_reason[f'not part of the {target}'] += sorted(unused)
    for reason, names in by_reason.items():
        report('dropped', f'{first_few(names)}: {reason}')
    if network.variant is not None:
        difference = compare_with_variant(network, network.variant, weights)
        for label, names in vars(difference).items():
            report(label, first_few(names) if names else 'none')


def report(label: str, text: str) -> None:
    """Print one line of the report."""
    print(one_line(f'{label:<12}{text}'))


if __name__ == '__main__':
    main()
