"""What a checkpoint may name beside plain data, and what each name does here.

A pickle looks classes and functions up by their full names. Each name that an honest
checkpoint needs has a function of ours in its place, which checks what it is given and
makes nothing but tensors, arrays, histories and plain data. No other name is known.
"""

import datetime
import re
from collections import Counter, OrderedDict
from collections.abc import Callable
from math import prod
from pathlib import PurePosixPath, PureWindowsPath
from pickle import UnpicklingError
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from .text import shown

HISTORY_ARRAYS = ('_log_history', '_count_history')
# Numbers, truth values, text and bytes; no objects, and no fields.
NUMPY_CODES = re.compile(r'b1|[iu][1248]|f(2|4|8|16)|c(8|16|32)|[US][1-9]\d{0,5}')


class Name(NamedTuple):
    """A class or function that the file names, and what takes its place."""

    path: str
    call: Callable


class Statistic(NamedTuple):
    """A function of HistoryBuffer's, to be named but not called."""

    function: Callable


class Storage(NamedTuple):
    """The memory of tensors; ``dtype`` is that of its ``numel`` elements."""

    memory: torch.UntypedStorage
    dtype: torch.dtype
    numel: int


def demand(condition: Any, what: str) -> None:
    """Refuse the file unless a condition holds.

    Raises:
        UnpicklingError: If it does not; the message says what is wrong with the file.
    """
    if not condition:
        raise UnpicklingError(what)


# Tensors


def rebuild_tensor(
    storage: Storage,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool = False,
    hooks: Any = None,
    metadata: Any = None,
) -> Tensor:
    """Make a view of a storage that stays inside it."""
    demand(type(storage) is Storage, 'a tensor has no storage')
    size, stride = tuple(size), tuple(stride)
    demand(
        len(size) == len(stride) <= 64
        and all(type(n) is int and 0 <= n < 2**40 for n in (offset, *size, *stride)),
        'a tensor has no sizes and strides, but other things',
    )
    end = offset
    if 0 not in size:
        end += 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    inside = end <= storage.numel and prod(n or 1 for n in size) < 2**62
    demand(inside, 'a tensor leaves its storage')
    demand(not metadata, 'a tensor is a conjugate or negative view')
    memory = storage.memory
    tensor = torch.empty(0, dtype=storage.dtype, device=memory.device)
    tensor.set_(memory, offset, size, stride)
    return tensor.requires_grad_(requires_grad is True and tensor.is_floating_point())


def rebuild_tensor_v3(
    storage: Storage,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool,
    hooks: Any,
    dtype: torch.dtype,
    metadata: Any = None,
) -> Tensor:
    """Do so for a type of number that has no storage class."""
    demand(type(storage) is Storage and dtype in NEWER_DTYPES, 'an odd tensor')
    numel = storage.memory.nbytes() // dtype.itemsize
    storage = Storage(storage.memory, dtype, numel)
    return rebuild_tensor(storage, offset, size, stride, requires_grad, hooks, metadata)


def rebuild_parameter(
    data: Tensor, requires_grad: bool, hooks: Any, state: Any = None
) -> Tensor:
    """Make a parameter, without the attributes that the file gives it."""
    demand(isinstance(data, Tensor), 'a parameter without a tensor')
    return torch.nn.Parameter(data.detach(), requires_grad is True)


def rebuild_from_type(function: Name, kind: Any, args: tuple, state: Any) -> Tensor:
    """Make a tensor with attributes, without the attributes."""
    demand(
        type(function) is Name and function.path.startswith('torch._utils._rebuild_'),
        'a tensor made by no function of torch',
    )
    return function.call(*args)


# NumPy


def make_dtype(code: str, align: bool = False, copy: bool = True) -> np.dtype:
    """Make a type of numbers or text; ``set_dtype`` gives it the file's byte order."""
    demand(
        type(code) is str and NUMPY_CODES.fullmatch(code),
        f'it holds an array of the type {shown(code)}',
    )
    return np.dtype(code, False, True)


def set_dtype(dtype: np.dtype, state: tuple) -> None:
    """Set the byte order; all else must be as NumPy has it."""
    _, _, expected = dtype.__reduce__()
    demand(
        type(state) is tuple
        and len(state) == len(expected)
        and all(type(a) is type(b) for a, b in zip(state, expected, strict=True))
        and state[1] in tuple('<>|=')
        and (state[0], state[2:]) == (expected[0], expected[2:]),
        'it holds a type of NumPy in a state that NumPy saves none in',
    )
    dtype.__setstate__(state)


def make_array(kind: Name, shape: tuple, code: bytes) -> np.ndarray:
    """Make an empty array; ``set_array`` fills it."""
    demand(kind is NAMES['numpy.ndarray'], 'an array of an unknown kind')
    return np.empty(0, 'b')


def set_array(array: np.ndarray, state: tuple) -> None:
    """Fill an array with exactly the bytes that its shape and type need."""
    demand(type(state) is tuple and len(state) == 5, 'an array without a state')
    _, shape, dtype, fortran, raw = state
    demand(
        type(shape) is tuple
        and len(shape) <= 32
        and all(type(n) is int and 0 <= n < 2**40 for n in shape)
        and isinstance(dtype, np.dtype)
        and type(raw) is bytes
        and len(raw) == prod(shape) * dtype.itemsize
        and prod(n or 1 for n in shape) * dtype.itemsize < 2**62,
        'an array does not have the bytes of its shape and type',
    )
    demand(_is_text(dtype, raw), 'an array of text has what is no letter')
    # A type of its own, which the file cannot set another byte order to any more.
    array.__setstate__((1, shape, np.dtype(dtype.str), fortran is True, raw))


def make_scalar(dtype: np.dtype, raw: bytes) -> np.generic:
    """Make a number from its bytes."""
    demand(
        isinstance(dtype, np.dtype)
        and type(raw) is bytes
        and len(raw) == dtype.itemsize > 0,
        'a number of NumPy does not have the bytes of its type',
    )
    demand(_is_text(dtype, raw), 'text has what is no letter')
    return np.frombuffer(raw, dtype)[0]


def _is_text(dtype: np.dtype, raw: bytes) -> bool:
    """Tell whether text holds letters, or else is no text; NumPy does not look."""
    if dtype.kind != 'U':
        return True
    letters = np.frombuffer(raw, f'{dtype.str[0]}u4')
    return bool((letters < 0x110000).all())


# The log of MMEngine


def get_statistic(owner: Name, name: str) -> Statistic:
    """Stand in for ``getattr``, by which HistoryBuffer pickles its statistics."""
    honest = owner is NAMES[HISTORY] and type(name) is str and name in STATISTICS
    path = owner.path if type(owner) is Name else type(owner).__name__
    demand(honest, f'it asks for getattr({shown(path)}, {shown(name)})')
    return STATISTICS[name]


def make_history() -> HistoryBuffer:
    """Make an empty history; ``set_history`` fills it."""
    return HistoryBuffer()


def set_history(history: HistoryBuffer, state: dict[str, Any]) -> None:
    """Fill a history; its statistics, which all histories share, stay as they are."""
    demand(type(state) is dict, 'a HistoryBuffer without a state')
    state = dict(state)
    statistics = state.pop('statistics_methods', {})
    known = HistoryBuffer._statistics_methods  # with those that the user registered
    demand(
        set(state) == {'max_length', *HISTORY_ARRAYS}
        and type(state['max_length']) is int
        and all(_is_list_of_numbers(state[name]) for name in HISTORY_ARRAYS)
        and len({len(state[name]) for name in HISTORY_ARRAYS}) == 1
        and type(statistics) is dict
        and all(
            getattr(item, 'function', item) is known.get(name)
            for name, item in statistics.items()
        ),
        'a HistoryBuffer as MMEngine saves none',
    )
    vars(history).update(state)


def _is_list_of_numbers(array: Any) -> bool:
    return type(array) is np.ndarray and array.ndim == 1 and array.dtype.kind in 'biuf'


# Plain data


def encode(text: str, coding: str) -> bytes:
    """Make bytes of the text that an older pickle has for them."""
    honest = type(text) is str and coding == 'latin1'
    demand(honest, f'it encodes text in {shown(coding)}')
    return text.encode('latin1')


def make_bytes() -> bytes:
    """Make no bytes, which older pickles have no other way to save."""
    return b''


def make_bytearray(raw: bytes = b'') -> bytearray:
    """Make a bytearray of bytes; of a number, it would be as long as that says."""
    demand(type(raw) is bytes, 'a bytearray made of no bytes')
    return bytearray(raw)


def make_counter(counts: dict[Any, int]) -> Counter:
    """Make a Counter of a dict."""
    demand(type(counts) is dict, 'a Counter made of no dict')
    return Counter(counts)


def make_set(items: list) -> set:
    """Make a set of a list whose items may be keys."""
    demand(type(items) is list and all(map(is_key, items)), 'a set of odd things')
    return set(items)


def make_ordered_dict(items: list = ()) -> OrderedDict:
    """Make an OrderedDict; Python 2 saved it with a list of pairs."""
    pairs = all(type(pair) is list and len(pair) == 2 for pair in items)
    demand(pairs and all(is_key(key) for key, _ in items), 'an odd dict')
    made = OrderedDict(items)
    demand(len(made) == len(items), 'a key is there twice')
    return made


def set_metadata(weights: OrderedDict, state: dict[str, Any]) -> None:
    """Keep the versions of the modules that have these weights; no other attribute."""
    demand(type(state) is dict, 'an OrderedDict with odd attributes')
    versions = state.get('_metadata')
    if isinstance(versions, dict) and all(map(_is_version, versions.items())):
        weights._metadata = versions


def _is_version(item: tuple[Any, Any]) -> bool:
    return type(item[0]) is str and isinstance(item[1], dict)


def make_slice(*bounds: int | None) -> slice:
    """Make a slice of numbers."""
    demand(all(type(b) in (int, type(None)) for b in bounds), 'a slice of odd things')
    return slice(*bounds)


def is_key(value: Any, in_tuple: bool = False) -> bool:
    """Tell whether a value may be a key: hashing it takes no time worth mention."""
    if type(value) is int:
        return abs(value) < 2**61  # beyond, numbers can be chosen that hash alike
    if type(value) is tuple:
        items = not in_tuple and len(value) <= 16
        return items and all(is_key(item, in_tuple=True) for item in value)
    return isinstance(value, str | bytes | float | bool | None | np.generic)


def not_to_be_called(*_: Any) -> None:
    """Stand in for a class that a file may name but not call."""
    raise UnpicklingError('it calls a class that is there to be named alone')


STATISTICS = {
    name: Statistic(getattr(HistoryBuffer, name))
    for name in ('min', 'max', 'current', 'mean')
}
HISTORY = 'mmengine.logging.history_buffer.HistoryBuffer'
UNTYPED = 'torch.storage.UntypedStorage'

CALLS = {
    'torch._utils._rebuild_tensor': rebuild_tensor,
    'torch._utils._rebuild_tensor_v2': rebuild_tensor,
    'torch._utils._rebuild_tensor_v3': rebuild_tensor_v3,
    'torch._utils._rebuild_parameter': rebuild_parameter,
    'torch._utils._rebuild_parameter_with_state': rebuild_parameter,
    'torch._tensor._rebuild_from_type_v2': rebuild_from_type,
    'torch.Tensor': not_to_be_called,
    'torch.nn.parameter.Parameter': not_to_be_called,
    'torch.Size': torch.Size,
    'torch.device': torch.device,
    'numpy.dtype': make_dtype,
    'numpy.ndarray': not_to_be_called,
    # What restores scalars and arrays has another place in NumPy 1 than in NumPy 2,
    # and a file may come from either.
    'numpy.core.multiarray._reconstruct': make_array,
    'numpy._core.multiarray._reconstruct': make_array,
    'numpy.core.multiarray.scalar': make_scalar,
    'numpy._core.multiarray.scalar': make_scalar,
    HISTORY: make_history,
    'builtins.getattr': get_statistic,
    # What hooks put beside it, to tell when and where.
    'datetime.datetime': datetime.datetime,
    'datetime.date': datetime.date,
    'datetime.timedelta': datetime.timedelta,
    'datetime.timezone': datetime.timezone,
    'pathlib.PosixPath': PurePosixPath,
    'pathlib.PurePosixPath': PurePosixPath,
    'pathlib._local.PosixPath': PurePosixPath,  # Python 3.13
    'pathlib.WindowsPath': PureWindowsPath,
    'builtins.bytes': make_bytes,
    'builtins.bytearray': make_bytearray,
    'builtins.complex': complex,
    'builtins.set': make_set,
    'builtins.slice': make_slice,
    '_codecs.encode': encode,
    'collections.Counter': make_counter,
    'collections.OrderedDict': make_ordered_dict,
    # The published classifiers hold their config as well, a dict of dicts.
    'yacs.config.CfgNode': make_ordered_dict,
}
# What else torch makes tensors by.
ODD_TENSORS = {
    'torch._utils._rebuild_sparse_tensor': 'sparse',
    'torch._utils._rebuild_sparse_csr_tensor': 'sparse',
    'torch._utils._rebuild_qtensor': 'quantized',
    'torch._utils._rebuild_nested_tensor': 'nested',
    'torch._utils._rebuild_meta_tensor_no_storage': 'meta',
}
NAMES = {path: Name(path, call) for path, call in CALLS.items()}
DTYPES = {
    f'torch.{name}': dtype
    for name, dtype in vars(torch).items()
    if isinstance(dtype, torch.dtype)
}
# The classes of storages stand for the types of their numbers.
STORAGES = {
    UNTYPED: torch.uint8,
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
# Pickles of the newer protocols name them without ``getattr``.
METHODS = {f'{HISTORY}.{name}': item for name, item in STATISTICS.items()}
NEWER_DTYPES = {
    dtype
    for path, dtype in DTYPES.items()
    if path.startswith(('torch.float8', 'torch.uint16', 'torch.uint32', 'torch.uint64'))
}
KNOWN = {**NAMES, **DTYPES, **STORAGES, **METHODS}
# What a file may say of an object after it has been made.
STATES = (
    (OrderedDict, set_metadata),
    (np.dtype, set_dtype),
    (np.ndarray, set_array),
    (HistoryBuffer, set_history),
)
