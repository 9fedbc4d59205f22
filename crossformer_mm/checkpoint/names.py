"""The names that a checkpoint may use, and the substitute for each.

A pickle looks up classes and functions by their full names. Each name that legitimate
checkpoints need is replaced by a function here, which checks its arguments and returns
only tensors, arrays, logs and plain data. All other names are refused.

A list in the arguments may contain itself or print endlessly, so each function checks
the types first.
"""

import datetime
import re
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from numpy.typing import NDArray
from torch import Tensor

from .errors import RefusedError, printable, require

HISTORY = 'mmengine.logging.history_buffer.HistoryBuffer'
HISTORY_ARRAYS = ('_log_history', '_count_history')
STATISTICS = ('min', 'max', 'current', 'mean')
# Numbers, booleans, text and bytes; no objects or structured types.
NUMPY_CODES = re.compile(r'b1|[iu][1248]|f(2|4|8|16)|c(8|16|32)|[US][1-9]\d{0,5}')


@dataclass(frozen=True)
class Name:
    """A class or function named in a file.

    Attributes:
        path (str): Its full name.
        call (Callable, optional): The function called instead; None if the file may
            only name it.
    """

    path: str
    call: Callable[..., Any] | None


@dataclass(frozen=True)
class Storage:
    """The memory of tensors of a ``dtype``."""

    memory: torch.UntypedStorage
    dtype: torch.dtype


# Tensors


def rebuild_tensor(
    storage: Storage,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool = False,
    hooks: object = None,
    metadata: object = None,
) -> Tensor:
    """Make a tensor after checking that it fits its storage."""
    require(type(storage) is Storage, 'a tensor has no storage')
    require(
        type(size) is type(stride) is tuple
        and len(size) == len(stride) <= 64
        and all(type(n) is int and 0 <= n < 2**40 for n in (offset, *size, *stride)),
        'a tensor has invalid sizes or strides',
    )
    end = offset
    if 0 not in size:
        end += 1 + sum((n - 1) * step for n, step in zip(size, stride))
    inside = end * storage.dtype.itemsize <= storage.memory.nbytes()
    require(
        inside and prod(n or 1 for n in size) < 2**62, 'a tensor exceeds its storage'
    )
    require(not metadata, 'a tensor is a conjugate or negative view')
    tensor = torch.empty(0, dtype=storage.dtype, device=storage.memory.device)
    tensor.set_(storage.memory, offset, size, stride)
    return tensor.requires_grad_(requires_grad is True and tensor.is_floating_point())


def rebuild_tensor_v3(storage: Storage, *args: Any) -> Tensor:
    """Make a tensor of a dtype that has no storage class, such as float8."""
    *layout, dtype = args[:6]
    require(
        type(storage) is Storage
        and type(dtype) is torch.dtype
        and str(dtype).startswith(('torch.float8', 'torch.uint')),
        'the dtype of a tensor does not fit its storage',
    )
    return rebuild_tensor(Storage(storage.memory, dtype), *layout, *args[6:])


def rebuild_parameter(
    data: Tensor, requires_grad: bool, hooks: object, state: object = None
) -> Tensor:
    """Make a parameter, without the attributes in the file."""
    require(isinstance(data, Tensor), 'a parameter has no tensor')
    return torch.nn.Parameter(data.detach(), requires_grad is True)


def rebuild_from_type(
    function: Name, kind: object, args: tuple[Any, ...], state: object
) -> Tensor:
    """Make a tensor, without the attributes in the file."""
    call = function.call if type(function) is Name else None
    if call not in (rebuild_tensor, rebuild_tensor_v3, rebuild_parameter):
        raise RefusedError('a tensor is made by an unknown function')
    return call(*args)


# NumPy


def make_dtype(code: str, align: bool = False, copy: bool = True) -> np.dtype[Any]:
    """Make a dtype of numbers or text; `set_dtype` sets the file's byte order."""
    require(type(code) is str, 'it holds an array of an invalid type')
    valid = NUMPY_CODES.fullmatch(code)
    require(valid, f'it holds an array of the type {printable(code)}')
    return np.dtype(code, copy=True)


def set_dtype(dtype: Any, state: tuple[Any, ...]) -> None:
    """Set the byte order of a dtype; the rest of its state must be unchanged."""
    _, _, expected = dtype.__reduce__()
    require(
        type(state) is tuple
        and [type(item) for item in state] == [type(item) for item in expected]
        and state[1] in tuple('<>|=')
        and (state[0], state[2:]) == (expected[0], expected[2:]),
        'it holds a NumPy dtype with an invalid state',
    )
    dtype.__setstate__(state)


def make_array(kind: Name, shape: tuple[int, ...], code: bytes) -> NDArray[Any]:
    """Make an empty array; `set_array` fills it."""
    require(kind is KNOWN['numpy.ndarray'], 'it has an array of a subclass')
    return np.empty(0, 'b')


def set_array(array: Any, state: tuple[Any, ...]) -> None:
    """Fill an array with exactly the bytes that its shape and dtype need."""
    require(type(state) is tuple and len(state) == 5, 'an array has no state')
    _, shape, dtype, fortran, raw = state
    require(
        type(shape) is tuple
        and len(shape) <= 32
        and all(type(n) is int and 0 <= n < 2**40 for n in shape)
        and has_valid_bytes(dtype, raw, prod(shape))
        and prod(n or 1 for n in shape) * dtype.itemsize < 2**62,
        'the data of an array does not fit its shape and dtype',
    )
    # Copy the dtype: the file could still change the byte order of the original.
    array.__setstate__((1, shape, np.dtype(dtype.str), fortran is True, raw))


def make_scalar(dtype: np.dtype[Any], raw: bytes) -> np.generic:
    """Make a NumPy number from its bytes."""
    valid = has_valid_bytes(dtype, raw, 1) and raw
    require(valid, 'the data of a NumPy number does not fit its dtype')
    return np.frombuffer(raw, dtype)[0]


def has_valid_bytes(dtype: object, raw: object, count: int) -> bool:
    """Return whether ``raw`` holds ``count`` items; text must be valid Unicode."""
    if not isinstance(dtype, np.dtype) or type(raw) is not bytes:
        return False
    if dtype.kind == 'U' and len(raw) % 4 == 0:
        # NumPy does not check code points, and invalid ones crash Python.
        code_points = np.frombuffer(raw, f'{dtype.str[0]}u4')
        if (code_points > 0x10FFFF).any():
            return False
    return len(raw) == count * dtype.itemsize


# The log of MMEngine


def get_statistic(owner: Name, name: str) -> Callable[..., Any]:
    """Replace ``getattr``, which HistoryBuffer uses to pickle its statistics."""
    require(type(name) is str, 'it asks for getattr without a name')
    path = owner.path if type(owner) is Name else type(owner).__name__
    allowed = path == HISTORY and name in STATISTICS
    require(allowed, f'it asks for getattr({path}, {printable(name)})')
    return getattr(HistoryBuffer, name)


def set_history(history: HistoryBuffer, state: dict[str, Any]) -> None:
    """Fill a log; do not change its statistics, which all logs share."""
    require(type(state) is dict, 'a HistoryBuffer has no state')
    state = dict(state)
    statistics = state.pop('statistics_methods', {})
    known = HistoryBuffer._statistics_methods  # including the user's
    arrays: list[Any] = [state.get(name) for name in HISTORY_ARRAYS]
    require(
        set(state) == {'max_length', *HISTORY_ARRAYS}
        and type(state['max_length']) is int
        and all(type(a) is np.ndarray and a.dtype.kind in 'biuf' for a in arrays)
        and arrays[0].ndim == 1
        and arrays[0].shape == arrays[1].shape
        and type(statistics) is dict
        and all(item is known.get(name) for name, item in statistics.items()),
        'it has a HistoryBuffer as MMEngine saves none',
    )
    vars(history).update(state)


# Plain data


def encode(text: str, coding: str) -> bytes:
    """Convert text to bytes, which older pickles save as text."""
    require(type(text) is type(coding) is str, 'it encodes something that is not text')
    require(coding == 'latin1', f'it encodes text in {printable(coding)}')
    return text.encode('latin1')


def check_types(call: Callable[..., Any], *kinds: type) -> Callable[..., Any]:
    """Wrap a function so that it accepts only arguments of these types."""

    def checked(*args: Any) -> Any:
        valid = all(type(a) in kinds for a in args)
        require(valid, f'it calls {call} with invalid arguments')
        return call(*args)

    return checked


def make_set(items: list[Any]) -> set[Any]:
    """Make a set from a list."""
    require(type(items) is list and all(map(is_key, items)), 'it has an invalid set')
    return set(items)


def set_metadata(weights: Any, state: dict[str, Any]) -> None:
    """Set the versions of the modules with these weights, and no other attribute."""
    require(type(state) is dict, 'an OrderedDict has invalid attributes')
    versions = state.get('_metadata')
    if isinstance(versions, dict) and all(
        type(module) is str and isinstance(version, dict)
        for module, version in versions.items()
    ):
        weights._metadata = versions


def is_key(value: object, in_tuple: bool = False) -> bool:
    """Return whether a value may be a key, i.e. is cheap to hash and compare."""
    if type(value) is int:
        return abs(value) < 2**61  # larger numbers can share a hash
    if type(value) is tuple:
        short = not in_tuple and len(value) <= 16
        return short and all(is_key(item, in_tuple=True) for item in value)
    return isinstance(value, str | bytes | float | bool | None | np.generic)


CALLS: dict[str, Callable[..., Any] | None] = {
    'torch._utils._rebuild_tensor': rebuild_tensor,
    'torch._utils._rebuild_tensor_v2': rebuild_tensor,
    'torch._utils._rebuild_tensor_v3': rebuild_tensor_v3,
    'torch._utils._rebuild_parameter': rebuild_parameter,
    'torch._utils._rebuild_parameter_with_state': rebuild_parameter,
    'torch._tensor._rebuild_from_type_v2': rebuild_from_type,
    'torch.Tensor': None,
    'torch.nn.parameter.Parameter': None,
    'torch.Size': check_types(torch.Size, tuple, list),
    'torch.device': check_types(torch.device, str, int),
    'numpy.dtype': make_dtype,
    'numpy.ndarray': None,
    # NumPy 2 moved these two.
    'numpy.core.multiarray._reconstruct': make_array,
    'numpy._core.multiarray._reconstruct': make_array,
    'numpy.core.multiarray.scalar': make_scalar,
    'numpy._core.multiarray.scalar': make_scalar,
    HISTORY: check_types(HistoryBuffer),
    'builtins.getattr': get_statistic,
    # Times and paths added by hooks.
    'datetime.datetime': datetime.datetime,
    'datetime.date': datetime.date,
    'datetime.timedelta': datetime.timedelta,
    'datetime.timezone': datetime.timezone,
    'pathlib.PosixPath': check_types(PurePosixPath, str),
    'pathlib.PurePosixPath': check_types(PurePosixPath, str),
    'pathlib._local.PosixPath': check_types(PurePosixPath, str),  # Python 3.13
    'pathlib.WindowsPath': check_types(PureWindowsPath, str),
    'builtins.bytes': check_types(bytes),
    'builtins.bytearray': check_types(bytearray, bytes),
    'builtins.complex': check_types(complex, float),
    'builtins.set': make_set,
    'builtins.slice': check_types(slice, int, type(None)),
    '_codecs.encode': encode,
    'collections.Counter': check_types(Counter, dict),
    'collections.OrderedDict': check_types(OrderedDict),
    # The published classifiers contain their config, a dict of dicts.
    'yacs.config.CfgNode': check_types(OrderedDict),
}
# Each storage class is replaced by its dtype.
STORAGES = {
    'torch.storage.UntypedStorage': torch.uint8,
    'torch.DoubleStorage': torch.float64,
    'torch.FloatStorage': torch.float32,
    'torch.HalfStorage': torch.float16,
    'torch.BFloat16Storage': torch.bfloat16,
    'torch.LongStorage': torch.int64,
    'torch.IntStorage': torch.int32,
    'torch.ShortStorage': torch.int16,
    'torch.CharStorage': torch.int8,
    'torch.ByteStorage': torch.uint8,
    'torch.BoolStorage': torch.bool,
    'torch.ComplexDoubleStorage': torch.complex128,
    'torch.ComplexFloatStorage': torch.complex64,
}
KNOWN: dict[str, Any] = {
    **{path: Name(path, call) for path, call in CALLS.items()},
    **STORAGES,
    **{str(item): item for item in vars(torch).values() if type(item) is torch.dtype},
    # Newer pickles name the statistics without ``getattr``.
    **{f'{HISTORY}.{name}': getattr(HistoryBuffer, name) for name in STATISTICS},
}
# Functions that set the state of an object, by its class.
STATES: dict[type, Callable[[Any, Any], None]] = {
    OrderedDict: set_metadata,
    np.dtype: set_dtype,
    np.ndarray: set_array,
    HistoryBuffer: set_history,
}
