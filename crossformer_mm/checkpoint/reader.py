"""What a checkpoint file holds, or one clear error."""

import os
import re
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

from mmengine.fileio import get_local_path

from . import weights_only


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message says which, why and what to do."""


@contextmanager
def naming(source: str) -> Iterator[None]:
    """Put the name of the file in front of the errors that are raised inside."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f'{source} {error}') from error.__cause__


def read_checkpoint(source: str) -> Any:
    """Read a file of torch.save or of safetensors onto the CPU.

    Nothing in it is executed, and a class that is not in ``allowed`` is refused by
    name. Tensors stay on the disk until they are used.

    Args:
        source (str): A path, a URL, or what else MMEngine's file clients know.

    Raises:
        CheckpointError: If it cannot be fetched, is damaged, or is refused.
    """
    try:
        with get_local_path(os.path.expanduser(source)) as path:
            return _read_file(Path(path))
    except KeyError as error:
        raise CheckpointError(
            f'cannot be read: MMEngine has no file client for {error}.'
        ) from error
    except (OSError, HTTPException, ImportError, ValueError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise CheckpointError(f'cannot be read: {reason}.') from error


def _read_file(path: Path) -> Any:
    with path.open('rb') as file:
        start = file.read(64)
    if not start:
        raise CheckpointError('is empty: get it again.')
    if start.lstrip().startswith(b'<'):
        raise CheckpointError(
            'is a web page, not a checkpoint: a Google Drive link leads to a page '
            'first. Download the file itself, in a browser or with gdown.'
        )
    if start[8:9] == b'{':
        return _read_safetensors(path)
    if tarfile.is_tarfile(path):
        raise CheckpointError('is a tar archive, which torch cannot read safely.')
    if start.startswith(b'PK'):
        _check_archive(path)
    try:
        return weights_only.load(str(path), map_location='cpu')
    except Exception as error:  # a damaged pickle can fail in any way
        raise CheckpointError(_explain(error)) from error


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(
            'is a safetensors file, which needs: pip install safetensors'
        ) from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f'is damaged, get it again: {error}.') from error


def _check_archive(path: Path) -> None:
    # torch does not compare the checksums: it would hand out wrong numbers.
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # as above
        raise CheckpointError(
            f'is cut off or damaged, get it again: {error}.'
        ) from error
    if damaged:
        raise CheckpointError(f'is damaged in {damaged}: get it again.')


def _explain(error: Exception) -> str:
    message = str(error)
    if found := re.search(r'GLOBAL (\S+)', message):
        refused = f'it asks for {found[1]}'
    elif found := re.search(r'Refused: (.+)', message):
        refused = found[1]
    else:
        # torch puts advice around the reason: to read the file without protection.
        advice = r'(?s)Weights only load failed.*?(WeightsUnpickler error:|\n\n\n)'
        reason = re.sub(advice, '', message).strip().partition('\n')[0].rstrip('.')
        reason = reason or type(error).__name__
        return f'is no checkpoint, or damaged: {reason}. Nothing of it was run.'
    return (
        f'is refused: {refused}. Nothing of it was run. Whoever made it can save the '
        'weights alone: torch.save(model.state_dict(), FILE).'
    )
