"""Whether weights are those that a network needs: all there, and usable."""

from dataclasses import dataclass

import torch

from .reader import CheckpointError
from .recognize import Shapes, Weights, first_few, shapes_of


@dataclass(frozen=True)
class Fit:
    """How the weights given differ from those a network needs.

    Attributes:
        missing (list[str]): Needed, but not given.
        unknown (list[str]): Given, but not needed.
        mismatched (list[str]): Of another shape; each with both shapes.
    """

    missing: list[str]
    unknown: list[str]
    mismatched: list[str]

    def __bool__(self) -> bool:
        """Tell whether there is no difference."""
        return not (self.missing or self.unknown or self.mismatched)

    def __str__(self) -> str:
        """Say in one line what is wrong, with the first few names."""
        return '; '.join(
            f'{len(names)} {what} ({first_few(names)})'
            for what, names in vars(self).items()
            if names
        )


def compare(weights: Weights, needed: Shapes) -> Fit:
    """Compare weights with the shapes that a network needs."""
    given = shapes_of(weights)
    return Fit(
        missing=[name for name in needed if name not in given],
        unknown=[name for name in given if name not in needed],
        mismatched=[
            f'{name} {list(given[name])}, not {list(shape)}'
            for name, shape in needed.items()
            if given.get(name, shape) != shape
        ],
    )


def check_values(weights: Weights) -> None:
    """Check that weights are plain tensors of finite float32 numbers.

    Raises:
        CheckpointError: If some are not; the message names the first few.
    """
    # Batch norms count their batches in whole numbers.
    weights = {
        name: tensor
        for name, tensor in weights.items()
        if not name.endswith('num_batches_tracked')
    }
    if others := [
        f'{name} {str(tensor.dtype).removeprefix("torch.")}'
        for name, tensor in weights.items()
        if tensor.dtype is not torch.float32
    ]:
        raise CheckpointError(
            f'has {len(others)} weights that are not float32 ({first_few(others)}): '
            'use the file they were made from, or save them again after .float(), '
            'which does not bring lost digits back.'
        )
    if odd := [
        name
        for name, tensor in weights.items()
        if tensor.layout is not torch.strided or tensor.device.type != 'cpu'
    ]:
        raise CheckpointError(f'has weights without values ({first_few(odd)}).')
    if broken := [
        name for name, tensor in weights.items() if not torch.isfinite(tensor).all()
    ]:
        raise CheckpointError(
            f'has {len(broken)} weights with NaN or Inf ({first_few(broken)}): the '
            'training that wrote it had failed. Use an earlier one of its checkpoints.'
        )
