"""The classes that a checkpoint may hold beside tensors.

A weights-only reader looks each class of a file up by its full name. Here every name
has the object that takes its place: the class itself where it can do no harm, else a
stand-in that checks what the file does with it. No other name is known.
"""

from collections import OrderedDict
from collections.abc import Callable
from pickle import UnpicklingError
from typing import Any

import numpy as np
from mmengine.logging import HistoryBuffer

STATISTICS = {
    name: getattr(HistoryBuffer, name) for name in ('min', 'max', 'current', 'mean')
}
HISTORY_ARRAYS = ('_log_history', '_count_history')


class RestoredHistory(HistoryBuffer):
    """Stands in for HistoryBuffer: checks the state in the file, then becomes one.

    HistoryBuffer keeps its statistics, which are functions, in a dict that all buffers
    of the process share, and lets a file update that dict.
    """

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state of an honest HistoryBuffer.

        Raises:
            UnpicklingError: If the state holds anything else.
        """
        state = dict(state)
        statistics = state.pop('statistics_methods', {})
        honest = (
            set(state) == {'max_length', *HISTORY_ARRAYS}
            and type(state['max_length']) is int
            and all(_is_numeric(state[name]) for name in HISTORY_ARRAYS)
            and all(STATISTICS.get(name) is statistics[name] for name in statistics)
        )
        if not honest:
            raise UnpicklingError('Refused: a HistoryBuffer as MMEngine saves none')
        self.__class__ = HistoryBuffer
        self.__setstate__(state)


def get_statistic(owner: Any, name: str) -> Callable:
    """Stand in for ``getattr``, by which HistoryBuffer pickles its statistics.

    Raises:
        UnpicklingError: If anything else is asked for: through ``getattr`` a file
            could reach any function of any module.
    """
    if owner is RestoredHistory and name in STATISTICS:
        return STATISTICS[name]
    raise UnpicklingError(f'Refused: it asks for getattr({owner!r}, {name!r})')


def _is_numeric(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind in 'biuf'


def _numpy_classes() -> dict[str, Callable]:
    # What restores scalars and arrays has another place in NumPy 1 than in NumPy 2,
    # and a file may come from either.
    internals = {
        f'numpy.{package}.multiarray.{name}': example.__reduce__()[0]
        for name, example in (('scalar', np.float64()), ('_reconstruct', np.empty(0)))
        for package in ('core', '_core')
    }
    # A file names np.dtype alone, but torch wants to know the class of each dtype too.
    dtypes = {type(np.dtype(code)) for code in '?bBhHiIlLqQefd'}
    return {
        'numpy.ndarray': np.ndarray,
        'numpy.dtype': np.dtype,
        **{f'{dtype.__module__}.{dtype.__name__}': dtype for dtype in dtypes},
        **internals,
    }


# What MMEngine saves beside the weights: the log of the training.
MMENGINE_CLASSES = {
    'mmengine.logging.history_buffer.HistoryBuffer': RestoredHistory,
    'builtins.getattr': get_statistic,
    **_numpy_classes(),
}
# The published classifiers hold their config as well, a dict of dicts.
PUBLISHED_CLASSES = {'yacs.config.CfgNode': OrderedDict}
