"""A new checkpoint file, whole or not at all."""

import hashlib
import os
from pathlib import Path
from typing import Any

import torch

from .convert import RECORD
from .reader import CheckpointError

SUFFIXES = ('.pth', '.safetensors')


def check_target(path: Path) -> None:
    """Check that a new file can come to be at ``path``.

    Raises:
        CheckpointError: If its suffix is unknown, its folder missing, or it is there.
    """
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f'must end in {" or ".join(SUFFIXES)}.')
    if not path.parent.is_dir():
        raise CheckpointError(f'cannot be written: there is no folder {path.parent}.')
    if path.exists():
        raise CheckpointError('is there already: choose another name, or remove it.')


def write_checkpoint(content: dict[str, Any], path: Path, publish: bool) -> Path:
    """Write a file under another name beside ``path``, then give it its own.

    Args:
        content (dict): As ``convert`` returns it.
        path (Path): The file; its suffix chooses the format.
        publish (bool): Whether to put the first eight digits of the file's SHA-256
            into its name, as OpenMMLab does.

    Returns:
        Path: The file.

    Raises:
        CheckpointError: If it cannot be written; nothing is left behind.
    """
    check_target(path)
    part = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        _write(content, part, path.suffix)
        if publish:
            path = path.with_stem(f'{path.stem}-{sha256(part)[:8]}')
            check_target(path)
        os.replace(part, path)
    except CheckpointError:
        raise
    except Exception as error:
        # torch reports a full disk as an unexpected position; the reason is inside.
        raise CheckpointError(
            f'cannot be written: {error.__context__ or error}.'
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return path


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
        # save_file makes a file that nobody else may read: it gets the usual rights.
        path.touch(exist_ok=False)
        mode = path.stat().st_mode
        save_file(content['state_dict'], path, content['meta'][RECORD])
        path.chmod(mode)
    else:
        # Given a path, torch would write its name into the file.
        with path.open('xb') as file:
            torch.save(content, file)
    with path.open('rb') as file:
        os.fsync(file.fileno())
