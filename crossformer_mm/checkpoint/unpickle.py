"""A pickle, read as data: nothing that it says is executed.

torch's own weights-only reader differs from version to version, knows whatever the
process has allowed, and has no limits. This one knows the names in ``names`` and the
opcodes below, on every torch, and a small file takes it little time and memory.
"""

import pickle
import re
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from pickle import UnpicklingError
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from .names import KNOWN, STATES, Name, Storage, demand, is_key, shown

LoadMemory = Callable[[torch.dtype, str, str, int], torch.UntypedStorage]

# Far beyond an honest checkpoint: it has about 60 opcodes for a weight and the state
# of its optimizer, and its containers are ten deep.
MAX_OPCODES = 2_000_000
MAX_DEPTH = 100
MAX_ITEMS = 10_000_000  # what is shared counts each time
# Bytes that may be made: for each byte of the file, and for any file.
GROWTH = 8
FREE_BYTES = 2**26

# The standard library's own methods, which make plain data of these, or call
# `find_class` and `persistent_load`.
INHERITED = (
    *('PROTO', 'NONE', 'NEWTRUE', 'NEWFALSE', 'BININT', 'BININT1', 'BININT2', 'LONG1'),
    *('BINFLOAT', 'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8', 'BINBYTES'),
    *('SHORT_BINBYTES', 'BINBYTES8', 'SHORT_BINSTRING', 'EMPTY_TUPLE', 'EMPTY_LIST'),
    *('EMPTY_DICT', 'EMPTY_SET', 'TUPLE1', 'TUPLE2', 'TUPLE3', 'TUPLE', 'MARK'),
    *('BINPUT', 'LONG_BINPUT', 'MEMOIZE', 'BINGET', 'LONG_BINGET', 'GLOBAL'),
    *('STACK_GLOBAL', 'BINPERSID'),
)
# The methods below.
OWN = (
    *('FRAME', 'BYTEARRAY8', 'APPEND', 'APPENDS', 'ADDITEMS', 'SETITEM', 'SETITEMS'),
    *('REDUCE', 'NEWOBJ', 'BUILD'),
)


class Unpickler(pickle._Unpickler):
    """Reads one pickle.

    Args:
        file: With ``read`` and ``readline``.
        load_memory (Callable): Returns the memory of a storage, given the dtype of its
            numbers, its key, the device it was on and how many numbers it has.
        size (int): Bytes of the file.
        trusted (Mapping[str, Any], optional): Further classes by full name, which the
            user answers for. Defaults to None.
    """

    def __init__(
        self,
        file: Any,
        load_memory: LoadMemory,
        size: int,
        trusted: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(file, encoding='latin1')
        self.read, self.readline = file.read, file.readline
        self.load_memory = load_memory
        self.storages: dict[str, Storage] = {}
        self.bytes_left = GROWTH * size + FREE_BYTES
        self.trusted = trusted or {}

    def load(self) -> Any:
        """Return what the pickle holds.

        Raises:
            UnpicklingError: If it asks for what is not known, or for too much.
            Exception: If it is damaged; almost any.
        """
        self.metastack: list[list[Any]] = []
        self.stack: list[Any] = []
        self.append = self.stack.append
        for _ in range(MAX_OPCODES):
            code = self.read(1)
            if code == pickle.STOP:
                break
            if code not in HANDLERS:
                raise UnpicklingError(f'it has the opcode {shown(code)}')
            HANDLERS[code](self)
        else:
            raise UnpicklingError(f'it has more than {MAX_OPCODES:,} opcodes')
        (result,) = self.stack
        check_data(result)
        return result

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name."""
        # The usual protocol has the name that Python 2 gave the module.
        module = 'builtins' if module == '__builtin__' else module
        path = f'{module}.{name}'
        found = KNOWN.get(path) or self.trusted.get(path)
        if found is None:
            if kind := re.match(r'torch._utils._rebuild_(\w*?)_?tensor', path):
                raise UnpicklingError(f'it has a {kind[1]} tensor')
            raise UnpicklingError(f'it asks for {shown(path)}')
        return found

    def is_trusted(self, item: Any) -> bool:
        """Return whether the user answers for a class or function."""
        return any(item is trusted for trusted in self.trusted.values())

    def persistent_load(self, pid: Any) -> Storage:
        """Return a storage, loaded once."""
        demand(
            type(pid) is tuple
            and pid[0] == 'storage'
            and [type(part) for part in pid[1:5]] == [torch.dtype, str, str, int]
            and pid[5:] in ((), (None,)),
            'it asks for an odd storage',
        )
        dtype, key, location, numel = pid[1:5]
        if key not in self.storages:
            memory = self.load_memory(dtype, key, location, numel)
            self.storages[key] = Storage(memory, dtype, numel)
        found = self.storages[key]
        same = (found.dtype, found.numel) == (dtype, numel)
        demand(same, 'a storage is of two kinds')
        return found

    def load_frame(self) -> None:
        """Read on: the length of a frame is of no use here."""
        self.read(8)

    def load_bytearray8(self) -> None:
        """Push a bytearray; it is made only as long as there are bytes."""
        size = int.from_bytes(self.read(8), 'little')
        self.append(bytearray(self.read(size)))

    # Containers

    def pop_mark(self) -> list[Any]:
        """Return what was pushed since the last mark."""
        items, self.stack = self.stack, self.metastack.pop()
        self.append = self.stack.append
        return items

    def load_append(self) -> None:
        """Put an item into the list below it."""
        self.extend([self.stack.pop()])

    def load_appends(self) -> None:
        """Put items into the list below them."""
        self.extend(self.pop_mark())

    def extend(self, items: list[Any]) -> None:
        """Put items into the list on top."""
        target = self.stack[-1]
        demand(type(target) is list, 'it appends to what is no list')
        target.extend(items)

    def load_additems(self) -> None:
        """Put items into the set below them."""
        items = self.pop_mark()
        target = self.stack[-1]
        demand(type(target) is set and all(map(is_key, items)), 'it has an odd set')
        target.update(items)

    def load_setitem(self) -> None:
        """Put a key and its value into the dict below them."""
        value = self.stack.pop()
        self.set_items([self.stack.pop(), value])

    def load_setitems(self) -> None:
        """Put keys and values into the dict below them."""
        self.set_items(self.pop_mark())

    def set_items(self, items: list[Any]) -> None:
        """Put keys and values into the dict on top."""
        target = self.stack[-1]
        is_dict = type(target) in (dict, OrderedDict, Counter)
        demand(is_dict or self.is_trusted(type(target)), 'it fills what is no dict')
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not is_key(key):
                raise UnpicklingError(f'a {type(key).__name__} is a key')
            if key in target:
                raise UnpicklingError(f'the key {shown(key)} is there twice')
            target[key] = value

    # Objects

    def load_reduce(self) -> None:
        """Call what stands for a name, or what the user trusts."""
        args = self.stack.pop()
        function = self.stack.pop()
        demand(type(args) is tuple, 'it calls a function without arguments')
        if self.is_trusted(function):
            result = function(*args)
        else:
            demand(type(function) is Name, f'it calls a {type(function).__name__}')
            demand(function.call, f'it calls {function.path}, which may only be named')
            result = function.call(*args)
            self.count_bytes(result)
        self.append(result)

    def load_newobj(self) -> None:
        """Make an object of a class that the user trusts, or call its stand-in."""
        args, kind = self.stack[-1], self.stack[-2]
        if not self.is_trusted(kind):
            return self.load_reduce()
        self.stack[-2:] = [kind.__new__(kind, *args)]

    def load_build(self) -> None:
        """Set the state of the object below it."""
        state = self.stack.pop()
        target = self.stack[-1]
        for kind, set_state in STATES:
            if isinstance(target, kind):
                set_state(target, state)
                self.count_bytes(target)
                return
        if not self.is_trusted(type(target)):
            raise UnpicklingError(f'it sets the state of a {type(target).__name__}')
        if hasattr(target, '__setstate__'):
            target.__setstate__(state)
        else:
            vars(target).update(state)

    def count_bytes(self, made: Any) -> None:
        """Stop a file of few bytes that makes many, again and again."""
        self.bytes_left -= sys.getsizeof(made)
        if isinstance(made, Tensor):  # which may repeat its storage
            self.bytes_left -= made.numel() * made.element_size()
        demand(self.bytes_left >= 0, 'it makes far more than it has bytes')


HANDLERS: dict[bytes, Callable[[Any], None]] = {
    getattr(pickle, name): pickle._Unpickler.dispatch[getattr(pickle, name)[0]]
    for name in INHERITED
} | {getattr(pickle, name): getattr(Unpickler, f'load_{name.lower()}') for name in OWN}


def check_data(item: Any) -> None:
    """Check that all of an object is data, and that its containers end.

    Raises:
        UnpicklingError: If it has a class or function for data, is too deep, or
            becomes too large where what is shared is copied.
    """
    measured: dict[int, tuple[int, int]] = {}  # by the id of a container

    def measure(item: Any, depth: int) -> tuple[int, int]:
        """Return the height and the number of items of a container."""
        if id(item) in measured:
            return measured[id(item)]
        if isinstance(item, dict):
            items = [*item.values(), getattr(item, '_metadata', None)]
        elif isinstance(item, list | tuple):
            items = list(item)
        else:
            foreign = isinstance(item, Name | Storage | FunctionType)
            demand(not foreign, 'it has a class or function in the place of data')
            return 0, 1
        demand(depth < MAX_DEPTH, 'its containers are too deep')
        inside = [measure(item, depth + 1) for item in items]
        height = 1 + max((height for height, _ in inside), default=0)
        size = 1 + sum(size for _, size in inside)
        demand(height <= MAX_DEPTH, 'its containers are too deep')
        demand(size <= MAX_ITEMS, 'it repeats its items too often')
        measured[id(item)] = height, size
        return height, size

    measure(item, 0)
