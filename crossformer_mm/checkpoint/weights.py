"""Shapes, differences and precision of state dicts."""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import CheckpointError, first_few

Weights = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]


def shapes_of(weights: Weights) -> Shapes:
    """Return the shape of each tensor."""
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


@dataclass(frozen=True)
class Difference:
    """Differences between given weights and those that a network needs, if any.

    Attributes:
        missing (list[str]): Needed, but not given.
        unknown (list[str]): Given, but not needed.
        mismatched (list[str]): With another shape; each entry has both shapes.
    """

    missing: list[str]
    unknown: list[str]
    mismatched: list[str]

    def __bool__(self) -> bool:
        """Return whether anything differs."""
        return bool(self.missing or self.unknown or self.mismatched)

    def __str__(self) -> str:
        """List the differences in one line, with the first few names."""
        return '; '.join(
            f'{len(names)} {kind} ({first_few(names)})'
            for kind, names in vars(self).items()
            if names
        )


def compare(given: Shapes, needed: Shapes) -> Difference:
    """Compare the shapes of weights with those that a network needs."""
    return Difference(
        missing=[name for name in needed if name not in given],
        unknown=[name for name in given if name not in needed],
        mismatched=[
            f'{name} {list(given[name])}, not {list(shape)}'
            for name, shape in needed.items()
            if given.get(name, shape) != shape
        ],
    )


def as_float32(weights: Weights) -> Weights:
    """Convert weights to float32, and check that they are finite.

    Args:
        weights (dict[str, Tensor]): Of any floating point type; integer counters of
            batch norms are kept.

    Raises:
        CheckpointError: If other weights are not floating point, or not finite; the
            message names the first few.
    """
    floats = {
        name: tensor
        for name, tensor in weights.items()
        if not name.endswith('num_batches_tracked')
    }
    if wrong_types := [
        f'{name} {dtype_name(tensor)}'
        for name, tensor in floats.items()
        if not tensor.is_floating_point()
    ]:
        raise CheckpointError(
            f'has {len(wrong_types)} weights that are no floating point numbers '
            f'({first_few(wrong_types)}): use the file they were made from.'
        )
    floats = {name: tensor.float() for name, tensor in floats.items()}
    if invalid := [
        name for name, tensor in floats.items() if not torch.isfinite(tensor).all()
    ]:
        raise CheckpointError(
            f'has {len(invalid)} weights with NaN or Inf ({first_few(invalid)}): the '
            'training that wrote it had failed. Use an earlier one of its checkpoints.'
        )
    return weights | floats


def precision(weights: Weights) -> str:
    """Count the weights that are not float32: ', 340 of them float16', or nothing."""
    counts = Counter(dtype_name(t) for t in weights.values() if t.is_floating_point())
    del counts['float32']
    return ''.join(f', {counts[name]} of them {name}' for name in sorted(counts))


def dtype_name(tensor: Tensor) -> str:
    """Return the name of a tensor's dtype, such as 'float16'."""
    return str(tensor.dtype).removeprefix('torch.')
