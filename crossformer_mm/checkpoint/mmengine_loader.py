"""MMEngine's loading of checkpoints, by our reader.

MMEngine leaves it to ``torch.load``. From torch 2.6 on, that refuses MMEngine's own
checkpoints, for the log of the training in them; before, it runs whatever a file says.
torch can be told to allow the log's classes, but then it does so for every file that
the process reads, ``getattr`` is one of them, and between these and a list of the
user's own it chooses by chance.
"""

from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, get_rank
from mmengine.runner import CheckpointLoader

from .reader import CheckpointError, MapLocation, download, naming, read_checkpoint
from .text import shown


def allow_mmengine_checkpoints() -> None:
    """Let MMEngine read its own checkpoints, and nothing more that they may hold.

    Those of ``--resume``, ``load_from``, ``mim test`` and the inferencers, that is.
    ``torch.load`` itself stays as it is.
    """
    loaders = {
        ('',): load_from_file,
        ('http://', 'https://'): load_from_http,
        (r'(\S+\:)?s3://', r'(\S+\:)?petrel://'): load_from_file,
    }
    for prefixes, loader in loaders.items():
        CheckpointLoader.register_scheme(prefixes, loader, force=True)


def trusted_by_the_user() -> dict[str, Any]:
    """Return what the user lets ``torch.load`` read, by full name."""
    get_safe_globals = getattr(torch.serialization, 'get_safe_globals', list)
    trusted = {}
    for item in get_safe_globals():
        item, path = item if isinstance(item, tuple) else (item, None)
        trusted[path or f'{item.__module__}.{item.__qualname__}'] = item
    return trusted


def load_from_file(filename: str, map_location: MapLocation = None) -> Any:
    """Load a checkpoint in the place of MMEngine's loaders of local and remote files.

    Raises:
        CheckpointError: If it cannot be read.
    """
    with naming(filename):
        return read_checkpoint(filename, map_location, trusted_by_the_user())


def load_from_http(filename: str, map_location: MapLocation = None) -> Any:
    """Load a URL in the place of MMEngine's loader: downloaded once, and kept.

    Raises:
        CheckpointError: If it cannot be downloaded or read.
    """
    folder = Path(torch.hub.get_dir(), 'checkpoints')
    path = folder / (Path(urlparse(filename).path).name or 'checkpoint')
    for rank_downloads in (get_rank() == 0, True):
        if rank_downloads and not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            try:
                download(filename, path)
            except (OSError, HTTPException, ValueError) as error:
                raise CheckpointError(
                    f'{filename} cannot be read: {shown(error)}.'
                ) from error
        barrier()
    try:
        return read_checkpoint(str(path), map_location, trusted_by_the_user())
    except CheckpointError as error:
        raise CheckpointError(
            f'{filename} was kept in {path}, which {error} To download it anew: '
            f'rm {path}'
        ) from error.__cause__
