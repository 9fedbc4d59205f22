"""``torch.load`` with the allowed classes and no others, on every torch from 2.1."""

import os
import zipfile
from typing import Any

import torch
from mmengine.fileio import get_local_path
from mmengine.runner import CheckpointLoader

from .allowed import MMENGINE_CLASSES, PUBLISHED_CLASSES

# The first torch whose reader can be told of classes by the name they have in a file.
HAS_SAFE_GLOBALS = torch.__version__ >= '2.6'


def allow_mmengine_checkpoints() -> None:
    """Let MMEngine read its own checkpoints, with the weights-only protection on.

    MMEngine 0.10 saves the log of the training beside the weights and leaves reading
    to ``torch.load``. From torch 2.6 on, that is weights-only and refuses the log's
    classes: exactly these are allowed here. Before, it runs whatever a file says:
    there MMEngine gets a loader with the same protection.
    """
    if HAS_SAFE_GLOBALS:
        safe_globals = [(item, name) for name, item in MMENGINE_CLASSES.items()]
        torch.serialization.add_safe_globals(safe_globals)
    else:
        CheckpointLoader.register_scheme(
            ('', 'http://', 'https://'), load_from_file, force=True
        )


def load_from_file(filename: str, map_location: Any = None) -> Any:
    """Load a checkpoint as MMEngine's loader of this name does, but weights-only."""
    with get_local_path(os.path.expanduser(filename)) as path:
        return load(path, map_location)


def load(path: str, map_location: Any) -> Any:
    """Read what torch.save wrote; classes that are not allowed are refused by name.

    Args:
        path (str): A local file. Its tensors stay there until they are used.
        map_location: See ``torch.load``.
    """
    # The format of torch before 1.6 cannot be mapped into memory.
    options = dict(map_location=map_location, mmap=zipfile.is_zipfile(path))
    if HAS_SAFE_GLOBALS:
        # Beside those that are allowed for good: these are taken back at the end.
        safe_globals = [(item, name) for name, item in PUBLISHED_CLASSES.items()]
        with torch.serialization.safe_globals(safe_globals):
            return torch.load(path, weights_only=True, **options)
    from . import old_torch_pickle

    return torch.load(path, pickle_module=old_torch_pickle, **options)
