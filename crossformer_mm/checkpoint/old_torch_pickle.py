"""The ``pickle_module`` of a weights-only ``torch.load`` before torch 2.6.

The reader of these versions cannot be told of further classes. This one knows torch's
list and ours, and refuses every other name. Delete it with the last torch below 2.6.
"""

import _codecs
import _compat_pickle
import pickle
from collections import Counter
from pickle import UnpicklingError
from typing import Any, BinaryIO

from torch import _weights_only_unpickler

from .allowed import MMENGINE_CLASSES, PUBLISHED_CLASSES

# Newer versions of torch have these in their own list.
NEWER_LIST = {
    'builtins.bytearray': bytearray,
    'builtins.complex': complex,
    'builtins.set': set,
    'collections.Counter': Counter,
    '_codecs.encode': _codecs.encode,
}

__all__ = ['Unpickler', 'UnpicklingError', 'load']


class Unpickler(pickle.Unpickler):
    """Finds the allowed classes alone."""

    def find_class(self, module: str, name: str) -> Any:
        """Look a class up by its full name, without importing anything.

        Raises:
            UnpicklingError: If it is not allowed; in the words of newer versions.
        """
        # A file has the names that Python 2 gave its builtins.
        module = _compat_pickle.IMPORT_MAPPING.get(module, module)
        path = f'{module}.{name}'
        old_list = _weights_only_unpickler._get_allowed_globals()
        ours = {**MMENGINE_CLASSES, **PUBLISHED_CLASSES}
        allowed = {**old_list, **NEWER_LIST, **ours}
        if path not in allowed:
            raise UnpicklingError(f'Unsupported global: GLOBAL {path}')
        return allowed[path]


def load(file: BinaryIO, **kwargs: Any) -> Any:
    """Read one object, as ``pickle.load`` does."""
    return Unpickler(file, **kwargs).load()
