"""What a checkpoint file holds, or one clear error."""

import os
import shutil
import stat
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import BadZipFile

from mmengine.fileio import get_local_path

from .text import one_line, shown
from .torch_file import OLD_START, ZIP_START, Damaged, MapLocation, read_old, read_zip

TIMEOUT = 8  # seconds that a server may say nothing
OF_STRANGERS = (
    'Whoever made it can save the weights alone: torch.save(model.state_dict(), FILE).'
)
OF_ONES_OWN = (
    'If you made it, torch.serialization.add_safe_globals([CLASS]) lets a class of '
    'yours in.'
)
COMPRESSED = (b'\x1f\x8b', b'BZh', b'\xfd7zXZ')


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message says which, why and what to do."""

    def __init__(self, message: str) -> None:
        # Names and reasons come from files and servers of strangers.
        super().__init__(one_line(message))


@contextmanager
def naming(source: str) -> Iterator[None]:
    """Put the name of the file in front of the errors that are raised inside."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f'{source} {error}') from error.__cause__


def read_checkpoint(
    source: str,
    map_location: MapLocation = 'cpu',
    trusted: Mapping[str, Any] | None = None,
) -> Any:
    """Read a file of torch.save or of safetensors.

    Nothing in it is executed, and a class that is not in ``allowed`` is refused by
    name.

    Args:
        source (str): A path, a URL, or what else MMEngine's file clients know.
        map_location: See ``torch.load``; files of safetensors and of torch before 1.6
            stay on the CPU. Defaults to 'cpu'.
        trusted (Mapping[str, Any], optional): Further classes by their full names,
            which the caller answers for. Defaults to None.

    Raises:
        CheckpointError: If it cannot be fetched, is damaged, or is refused.
    """
    try:
        with local_path(source) as path:
            return _read_file(path, map_location, trusted)
    except KeyError as error:
        raise CheckpointError(
            f'cannot be read: MMEngine has no file client for {error}.'
        ) from error
    except (OSError, HTTPException, ImportError, ValueError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise CheckpointError(f'cannot be read: {shown(reason)}.') from error


@contextmanager
def local_path(source: str) -> Iterator[Path]:
    """Give a path to a file, which is a copy for as long as needed if it is remote."""
    if source.startswith(('http://', 'https://')):
        with TemporaryDirectory() as folder:
            path = Path(folder, 'checkpoint')
            download(source, path)
            yield path
    else:
        with get_local_path(os.path.expanduser(source)) as path:
            yield Path(path)


def download(url: str, path: Path) -> None:
    """Download a file, whole or not at all.

    Raises:
        OSError: If the server does not answer, or ends before the file does.
    """
    with (
        urllib.request.urlopen(url, timeout=TIMEOUT) as answer,
        TemporaryDirectory(dir=path.parent) as folder,
    ):
        part = Path(folder, path.name)
        with part.open('xb') as file:
            shutil.copyfileobj(answer, file)
            length = answer.headers.get('Content-Length')
            if length and int(length) != file.tell():
                raise OSError(f'of {length} bytes, {file.tell()} came: try again')
        os.replace(part, path)


def _read_file(
    path: Path, map_location: MapLocation, trusted: Mapping[str, Any] | None
) -> Any:
    # A pipe or a device has no end, or none that ever comes.
    if not stat.S_ISREG(path.stat().st_mode):
        kind = 'Is a directory' if path.is_dir() else 'Is not a regular file'
        raise CheckpointError(f'cannot be read: {kind}.')
    with path.open('rb') as file:
        size = path.stat().st_size
        start = file.read(512)
        file.seek(0)
        if start[8:9] == b'{':
            return _read_safetensors(path)
        if not start.startswith((ZIP_START, OLD_START)):
            raise CheckpointError(_what_else(start))
        try:
            if start.startswith(ZIP_START):
                return read_zip(path, size, map_location, trusted)
            return read_old(file, size, trusted)
        except UnpicklingError as error:
            advice = OF_STRANGERS if trusted is None else OF_ONES_OWN
            raise CheckpointError(
                f'is refused: {error}. Nothing of it was run. {advice}'
            ) from error
        except Damaged as error:
            raise CheckpointError(str(error)) from error
        except BadZipFile as error:
            raise CheckpointError(
                f'is cut off or damaged, get it again: {shown(error)}.'
            ) from error
        except Exception as error:  # a damaged pickle can fail in any way
            raise CheckpointError(
                f'is damaged, get it again: {shown(error) or type(error).__name__}. '
                'Nothing of it was run.'
            ) from error


def _what_else(start: bytes) -> str:
    """Say what a file is that is no checkpoint, by how it starts."""
    if not start:
        return 'is empty: get it again.'
    if start.lstrip().startswith(b'<'):
        return (
            'is a web page, not a checkpoint: a Google Drive link leads to a page '
            'first. Download the file itself, in a browser or with gdown.'
        )
    if start[257:262] == b'ustar' or start.startswith(COMPRESSED):
        return 'is a tar archive or compressed: give the checkpoint inside.'
    return 'is no checkpoint, or damaged: it starts as no file of torch.save.'


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(
            'is a safetensors file, which needs: pip install safetensors'
        ) from error
    try:
        return load_file(path)
    except Exception as error:
        raise CheckpointError(f'is damaged, get it again: {shown(error)}.') from error
