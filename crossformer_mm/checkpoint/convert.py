"""A network's weights in the form that another program reads."""

from typing import Any

import numpy as np
from torch import Tensor

from ..version import __version__
from .fit import Fit, as_float32, compare
from .reader import CheckpointError
from .recognize import (
    MMPRETRAIN_NAMES,
    Network,
    Weights,
    backbone_shapes,
    classifier_shapes,
    count_stages,
    first_stages,
    full_name,
)

RECORD = 'crossformer_mm'  # where 'meta' tells where the weights come from
LARGEST_LIST = 100_000  # numbers of an array in 'meta'
TARGETS = ('backbone', 'classifier', 'detector', 'segmentor', 'original')


def convert(network: Network, target: str, meta: dict[str, Any]) -> dict[str, Any]:
    """Make the content of a checkpoint file.

    Args:
        network (Network): What was found in another checkpoint.
        target (str): 'backbone', 'classifier' (for MMPretrain 1.x), 'detector' (for
            MMDetection 3.x), 'segmentor' (for MMSegmentation 1.x), or 'original': for
            the original code, a classifier with its head, of others the backbone.
        meta (dict): What to say about the weights beside them.

    Raises:
        CheckpointError: If the network has no such weights, or not all of them, or
            they are no finite numbers.
    """
    weights = select(network, target)
    if network.variant is None:
        raise CheckpointError(f'holds {full_name(None)}, which cannot be converted.')
    if not (fit := compare_with_variant(network, weights)):
        raise CheckpointError(
            f'is no whole {full_name(network.variant)} {target}: {fit}. Get it again, '
            'or take its backbone alone, if that is whole, by --to backbone.'
        )
    weights = {name: _alone(t) for name, t in as_float32(weights).items()}
    if target == 'original':
        return {'meta': meta, 'model': weights}
    if target != 'backbone':
        weights = {
            _openmmlab_name(name, network): tensor for name, tensor in weights.items()
        }
    return {'meta': meta, 'state_dict': weights}


def select(network: Network, target: str) -> Weights:
    """Return the weights that ``target`` is made of, by their published names.

    Raises:
        CheckpointError: If the network has no such weights.
    """
    if target not in (network.kind, 'backbone', 'original'):
        raise CheckpointError(f'holds a {network.kind}: no {target} can be made of it.')
    original_classifier = (target, network.kind) == ('original', 'classifier')
    if target == network.kind or original_classifier:
        return network.backbone | network.rest
    return network.backbone


def compare_with_variant(network: Network, weights: Weights) -> Fit:
    """Compare weights with the published variant, heads of OpenMMLab apart."""
    if network.kind != 'classifier':
        # A detector may have been built without the last stages.
        stages = count_stages(network.backbone)
        needed = first_stages(backbone_shapes(network.variant), stages)
        return compare(network.backbone, needed)
    whole = weights.keys() != network.backbone.keys()
    shapes = classifier_shapes if whole else backbone_shapes
    return compare(weights, shapes(network.variant))


def make_meta(
    network: Network, target: str, source: str, sha256: str, source_meta: Any
) -> dict[str, Any]:
    """Say beside the weights where they come from.

    Args:
        network (Network): What was found in the source.
        target (str): What is made of it.
        source (str): Name of the source.
        sha256 (str): Its hash.
        source_meta: Its own 'meta': the names of the classes are taken over, which
            MMDetection's and MMSegmentation's inferencers want.
    """
    meta = {
        RECORD: {
            'version': __version__,
            'variant': str(network.variant),
            'conversion': f'{network.kind} to {target}',
            'source': source,
            'source_sha256': sha256,
        }
    }
    if target in ('detector', 'segmentor') and isinstance(source_meta, dict):
        # MMCV 1.x had them in 'meta' itself.
        meta['dataset_meta'] = plain(source_meta.get('dataset_meta')) or {
            new: found
            for old, new in (('CLASSES', 'classes'), ('PALETTE', 'palette'))
            if (found := plain(source_meta.get(old)))
        }
    return meta


def plain(value: Any) -> Any:
    """Copy data, arrays as lists; what is no data becomes None."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.ndarray | np.generic | Tensor):
        size = value.numel() if isinstance(value, Tensor) else value.size
        return value.tolist() if size <= LARGEST_LIST else None
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain(item) for item in value)
    return None


def _openmmlab_name(name: str, network: Network) -> str:
    if name in network.backbone:
        return f'backbone.{name}'
    if network.kind == 'classifier':
        part = next(part for part in MMPRETRAIN_NAMES if name.startswith(part))
        return MMPRETRAIN_NAMES[part] + name.removeprefix(part)
    return name


def _alone(tensor: Tensor) -> Tensor:
    """Give a view of a larger tensor memory of its own, or all of that is saved."""
    tensor = tensor.detach().contiguous()
    whole = tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if whole else tensor.clone()
