"""Whether weights are those that a network needs: all there, and usable."""

import logging
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import load_state_dict
from torch import Tensor, nn

from .reader import CheckpointError
from .recognize import Shapes, Weights, first_few, reason_to_drop, shapes_of


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


def as_float32(weights: Weights) -> Weights:
    """Return weights as finite float32 numbers.

    Args:
        weights (dict[str, Tensor]): Of float32, or of another floating type, as which
            many save them.

    Raises:
        CheckpointError: If some are anything else; the message names the first few.
    """
    # Batch norms count their batches in whole numbers.
    floats = {
        name: tensor
        for name, tensor in weights.items()
        if not name.endswith('num_batches_tracked')
    }
    if others := [
        f'{name} {dtype_name(tensor)}'
        for name, tensor in floats.items()
        if not tensor.is_floating_point()
    ]:
        raise CheckpointError(
            f'has {len(others)} weights that are no floating point numbers '
            f'({first_few(others)}): use the file they were made from.'
        )
    if odd := [
        name
        for name, tensor in floats.items()
        if tensor.layout is not torch.strided or tensor.device.type != 'cpu'
    ]:
        raise CheckpointError(f'has weights without values ({first_few(odd)}).')
    floats = {name: tensor.float() for name, tensor in floats.items()}
    if broken := [
        name for name, tensor in floats.items() if not torch.isfinite(tensor).all()
    ]:
        raise CheckpointError(
            f'has {len(broken)} weights with NaN or Inf ({first_few(broken)}): the '
            'training that wrote it had failed. Use an earlier one of its checkpoints.'
        )
    return {name: floats.get(name, tensor) for name, tensor in weights.items()}


def precision(weights: Weights) -> str:
    """Say which weights are not float32: ', 340 of them float16', or nothing."""
    names = [dtype_name(t) for t in weights.values() if t.is_floating_point()]
    return ''.join(
        f', {names.count(name)} of them {name}'
        for name in sorted(set(names) - {'float32'})
    )


def dtype_name(tensor: Tensor) -> str:
    """Return 'float16' and the like."""
    return str(tensor.dtype).removeprefix('torch.')


def check_loaded(
    model: nn.Module,
    checkpoint: dict[str, Any],
    source: str,
    strict: bool = True,
    fine_tuning: bool = False,
) -> None:
    """Check that a checkpoint that MMEngine has loaded is the model's, and whole.

    MMEngine loads what fits, and no more than logs what does not.

    Args:
        model (nn.Module): The network.
        checkpoint (dict): What has been loaded into it.
        source (str): Where from.
        strict (bool): Whether the checkpoint must hold each weight of the model, in its
            shape, and no other. Defaults to True.
        fine_tuning (bool): Whether weights may have other shapes, as those of another
            number of classes: they are left as they were. Defaults to False.

    Raises:
        CheckpointError: If it must, and does not.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    fit, name = compare_loaded(model, checkpoint), type(model).__name__
    if fit:
        print_log(f'Loaded {source}: the whole {name}', 'current')
        return
    if strict and (fit.missing or fit.unknown or not fine_tuning):
        raise CheckpointError(
            f'{source} does not fit the {name}: {fit}. Choose the checkpoint of this '
            'config or the config of this checkpoint; strict=False in the config loads '
            'what fits and leaves the rest as it is.'
        )
    left = [*fit.missing, *(text.partition(' ')[0] for text in fit.mismatched)]
    layers = dict.fromkeys(weight.rpartition('.')[0] for weight in left)
    print_log(
        f'Loaded what fits the {name} of {source}: {fit}. Left as they were: '
        + ', '.join(layers),
        'current',
        logging.WARNING,
    )


def compare_loaded(model: nn.Module, checkpoint: dict[str, Any]) -> Fit:
    """Compare a checkpoint with the model that it has been loaded into.

    It is loaded once more, by the same function of MMEngine, since a module may rename
    weights of its older versions meanwhile.
    """
    state = checkpoint.get('state_dict', checkpoint)
    state = OrderedDict(
        (re.sub(r'^module\.', '', name), item) for name, item in state.items()
    )
    needed, found = shapes_of(model.state_dict()), {}
    handle = model.register_load_state_dict_post_hook(
        lambda _, keys: found.update(missing=[*keys[0]], unknown=[*keys[1]])
    )
    load_state_dict(model, state, logger='silent')
    handle.remove()
    return Fit(
        missing=[n for n in found['missing'] if not n.endswith('num_batches_tracked')],
        unknown=[n for n in found['unknown'] if not reason_to_drop(n)],
        mismatched=[
            f'{name} {list(state[name].shape)}, not {list(shape)}'
            for name, shape in needed.items()
            if isinstance(state.get(name), Tensor) and state[name].shape != shape
        ],
    )
