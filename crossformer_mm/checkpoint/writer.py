"""A new checkpoint file, whole or not at all."""

import errno
import hashlib
import os
import secrets
from pathlib import Path
from typing import Any

import torch

from .convert import RECORD
from .reader import CheckpointError

SUFFIXES = ('.pth', '.safetensors')
# What a file system without hard links says, such as exFAT or some of the network.
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def check_target(path: Path) -> None:
    """Check that a new file can come to be at ``path``.

    Raises:
        CheckpointError: If its suffix is unknown, its folder missing, or it is there.
    """
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f'must end in {" or ".join(SUFFIXES)}.')
    if not os.path.isdir(path.parent):
        raise CheckpointError(f'cannot be written: there is no folder {path.parent}.')
    if os.path.lexists(path):  # a link that leads nowhere is somebody's, too
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
    # Of no other process, in this container or another; a long name is cut.
    part = path.with_name(f'.{path.name[:40]}.{secrets.token_hex(8)}.part')
    try:
        part.touch(exist_ok=False)
    except OSError as error:
        raise CheckpointError(f'cannot be written: {error.strerror}.') from error
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
        # torch reports a full disk as an unexpected position; the reason is inside.
        error = error.__context__ or error
        reason = getattr(error, 'strerror', None) or error
        raise CheckpointError(f'cannot be written: {reason}.') from error
    finally:
        part.unlink(missing_ok=True)
    return path


def _rename(part: Path, path: Path) -> None:
    """Give a file its name, unless another has it: os.replace would not ask."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        # Nobody else gets a name that is taken.
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
        # save_file makes a file that nobody else may read: it keeps the usual rights.
        mode = path.stat().st_mode
        save_file(content['state_dict'], path, content['meta'][RECORD])
        path.chmod(mode)
    else:
        # Given a path, torch would write its name into the file.
        with path.open('wb') as file:
            torch.save(content, file)
    with path.open('rb') as file:
        os.fsync(file.fileno())
