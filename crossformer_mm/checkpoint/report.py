"""What a person wants to know of a checkpoint, line by line."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from .convert import compare_with_variant, select
from .fit import precision
from .recognize import Network, Weights, count_stages, first_few, full_name
from .text import one_line


def report_file(label: str, path: Path, sha256: str) -> Iterator[str]:
    """Tell the size and the hash of a file."""
    yield _line(label, f'{path}, {path.stat().st_size:,} bytes')
    yield _line('SHA-256', sha256)


def report_network(network: Network, target: str) -> Iterator[str]:
    """Tell what was found, and what of it ``target`` uses."""
    weights = select(network, target)
    yield _line('kind', network.kind)
    yield _line('variant', full_name(network.variant))
    yield _line('stages', str(count_stages(network.backbone)))
    yield _line('used', f'{_count(weights)} for the {target}')
    dropped = network.dropped | {
        name: f'not part of the {target}'
        for name in network.rest
        if name not in weights
    }
    by_reason = defaultdict(list)
    for name, reason in dropped.items():
        by_reason[reason].append(name)
    for reason, names in by_reason.items():
        yield _line('dropped', f'{first_few(names)}: {reason}')
    if network.variant is None:
        return
    fit = compare_with_variant(network, weights)
    for label, names in vars(fit).items():
        yield _line(label, first_few(names) if names else 'none')


def _count(weights: Weights) -> str:
    values = sum(tensor.numel() for tensor in weights.values())
    return f'{len(weights)} tensors, {values / 1e6:.1f} M values{precision(weights)}'


def _line(label: str, text: str) -> str:
    return one_line(f'{label:<12}{text}')
