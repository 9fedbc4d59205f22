"""Convert a network's weights for another program, and write the new file."""

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..version import __version__
from .errors import CheckpointError
from .recognize import (
    TO_MMPRETRAIN,
    Network,
    backbone_shapes,
    classifier_shapes,
    count_stages,
    full_name,
    rename,
)
from .weights import Difference, Weights, as_float32, compare, shapes_of

RECORD = 'crossformer_mm'  # key of 'meta': origin of the weights
LARGEST_LIST = 100_000  # maximum size of an array in 'meta'
TARGETS = ('backbone', 'classifier', 'detector', 'segmentor', 'original')
SUFFIXES = ('.pth', '.safetensors')


def convert(network: Network, target: str, meta: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a new checkpoint file.

    Args:
        network (Network): Network recognized in another checkpoint.
        target (str): 'backbone', 'classifier' (for MMPretrain 1.x), 'detector' (for
            MMDetection 3.x), 'segmentor' (for MMSegmentation 1.x), or 'original' (for
            the original code: a classifier with its head, else only the backbone).
        meta (dict): Stored with the weights, see `make_meta`.

    Raises:
        CheckpointError: If the weights are missing, incomplete or not finite.
    """
    weights = select(network, target)
    if network.variant is None:
        raise CheckpointError(f'holds {full_name(None)}, which cannot be converted.')
    if difference := compare_with_variant(network, network.variant, weights):
        raise CheckpointError(
            f'is no whole {full_name(network.variant)} {target}: {difference}. Get it '
            'again, or take only its backbone, if that is whole, by --to backbone.'
        )
    weights = {name: copy_view(t) for name, t in as_float32(weights).items()}
    if target == 'original':
        return {'meta': meta, 'model': weights}
    if target != 'backbone':
        weights = {openmmlab_name(n, network): t for n, t in weights.items()}
    return {'meta': meta, 'state_dict': weights}


def select(network: Network, target: str) -> Weights:
    """Return the weights of ``target`` by their published names.

    Raises:
        CheckpointError: If the network has no such weights.
    """
    if target == 'original':
        target = 'classifier' if network.kind == 'classifier' else 'backbone'
    if target == 'backbone':
        return network.backbone
    if target != network.kind:
        raise CheckpointError(f'holds a {network.kind}: no {target} can be made of it.')
    return network.backbone | network.rest


def compare_with_variant(
    network: Network, variant: str, weights: Weights
) -> Difference:
    """Compare weights with the published variant, ignoring heads of OpenMMLab."""
    is_classifier = network.kind == 'classifier'
    if is_classifier and weights.keys() != network.backbone.keys():
        return compare(shapes_of(weights), classifier_shapes(variant))
    # A detector may have been built without the last stages.
    stages = None if is_classifier else count_stages(network.backbone)
    return compare(shapes_of(network.backbone), backbone_shapes(variant, stages))


def make_meta(
    network: Network, target: str, source: str, sha256: str, source_meta: object
) -> dict[str, Any]:
    """Return the 'meta' of the new file: the origin of its weights.

    Args:
        network (Network): Network recognized in the source.
        target (str): Target of the conversion.
        source (str): Name of the source.
        sha256 (str): Its hash.
        source_meta: Its 'meta'. The names of the classes are copied, because
            MMDetection's and MMSegmentation's inferencers need them.
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
    """Copy plain data; arrays become lists, other objects None."""
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


def openmmlab_name(name: str, network: Network) -> str:
    """Return the name of a weight in MMPretrain, MMDetection or MMSegmentation."""
    if name in network.backbone:
        return f'backbone.{name}'
    return rename(name, TO_MMPRETRAIN) if network.kind == 'classifier' else name


def copy_view(tensor: Tensor) -> Tensor:
    """Copy a view, because torch.save would write the larger tensor behind it."""
    tensor = tensor.detach().contiguous()
    owns_storage = tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if owns_storage else tensor.clone()


# The new file


def check_target(path: Path) -> None:
    """Check that a new file can be written at ``path``.

    Raises:
        CheckpointError: If the suffix or folder is invalid, or the file exists.
    """
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f'must end in {" or ".join(SUFFIXES)}.')
    if not os.path.isdir(path.parent):
        raise CheckpointError(f'cannot be written: there is no folder {path.parent}.')
    if os.path.lexists(path):  # a dangling link counts, too
        raise CheckpointError('is there already: choose another name, or remove it.')


def write_checkpoint(content: dict[str, Any], path: Path, publish: bool) -> Path:
    """Write a file under a temporary name in the same folder, then rename it.

    Args:
        content (dict): Returned by ``convert``.
        path (Path): The file; its suffix determines the format.
        publish (bool): Whether to put the first eight digits of the file's SHA-256
            into its name, as OpenMMLab does.

    Returns:
        Path: The file.

    Raises:
        CheckpointError: If it cannot be written; no partial file remains.
    """
    check_target(path)
    # A name that no other process uses, even in another container.
    part = path.with_name(f'.{path.name[:40]}.{secrets.token_hex(8)}.part')
    try:
        _write(content, part, path.suffix)
        if publish:
            path = path.with_stem(f'{path.stem}-{sha256(part)[:8]}')
            check_target(path)
        _rename(part, path)
    except CheckpointError:
        raise
    except FileExistsError as error:
        raise CheckpointError(
            'is there already, made by another program in the meantime.'
        ) from error
    except Exception as error:
        # torch reports a full disk as an unexpected position; the cause is chained.
        cause = error.__context__ or error
        reason = getattr(cause, 'strerror', None) or cause
        raise CheckpointError(f'cannot be written: {reason}.') from cause
    finally:
        with suppress(OSError):  # renamed, or never made
            part.unlink()
    return path


def _rename(part: Path, path: Path) -> None:
    """Rename a file unless the name is taken; os.replace would overwrite."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:
        # File systems without hard links, such as exFAT: reserve the name first.
        path.touch(exist_ok=False)
        os.replace(part, path)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _write(content: dict[str, Any], path: Path, suffix: str) -> None:
    if suffix == '.safetensors':
        try:
            from safetensors.torch import save_file
        except ImportError as error:
            raise CheckpointError('needs: pip install safetensors') from error
        # save_file sets the file's mode to 0600.
        path.touch()
        mode = path.stat().st_mode
        save_file(content['state_dict'], path, content['meta'][RECORD])
        path.chmod(mode)
    else:
        # Given a path, torch would write its name into the file.
        with path.open('wb') as file:
            torch.save(content, file)
    with path.open('rb') as file:
        os.fsync(file.fileno())
