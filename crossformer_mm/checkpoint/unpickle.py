"""Read a pickle as data: nothing in it is executed.

torch's weights-only unpickler differs between versions, accepts everything that the
process has allowed, and does not limit time and memory. This one accepts the names in
``names`` and the opcodes below with every version of torch, and limits both.
"""

import pickle
import re
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from .errors import RefusedError, printable, require
from .names import KNOWN, STATES, Name, Storage, is_key

LoadMemory = Callable[[torch.dtype, str, str, int], torch.UntypedStorage]

# Advice for an unknown class, without and with a list of the user's trusted classes.
NO_LIST = 'Its author can save the weights only: torch.save(model.state_dict(), FILE)'
LIST = (
    'If you made it, torch.serialization.add_safe_globals([CLASS]) allows a class of '
    'yours'
)

# Far above what a legitimate checkpoint needs: about 60 opcodes for a weight and its
# optimizer state, and containers ten deep.
MAX_OPCODES = 2_000_000
MAX_DEPTH = 100
MAX_ITEMS = 2_000_000  # a shared item counts each time
# Bytes that may be allocated: per byte of the file, and in addition for any file.
GROWTH = 8
FREE_BYTES = 2**26

# The standard library's own methods: they make plain data, or call `find_class` and
# `persistent_load`.
INHERITED = (
    *('PROTO', 'NONE', 'NEWTRUE', 'NEWFALSE', 'BININT', 'BININT1', 'BININT2', 'LONG1'),
    *('BINFLOAT', 'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8', 'BINBYTES'),
    *('SHORT_BINBYTES', 'BINBYTES8', 'SHORT_BINSTRING', 'EMPTY_TUPLE', 'EMPTY_LIST'),
    *('EMPTY_DICT', 'EMPTY_SET', 'TUPLE1', 'TUPLE2', 'TUPLE3', 'TUPLE', 'MARK'),
    *('BINPUT', 'LONG_BINPUT', 'MEMOIZE', 'BINGET', 'LONG_BINGET', 'GLOBAL'),
    *('STACK_GLOBAL', 'BINPERSID', 'APPEND', 'APPENDS'),
)
# The methods below.
OWN = ('FRAME', 'ADDITEMS', 'SETITEM', 'SETITEMS', 'REDUCE', 'NEWOBJ', 'BUILD')


class Unpickler(pickle._Unpickler):
    """Reads one pickle.

    Args:
        file: With ``read`` and ``readline``.
        load_memory (Callable): Returns the memory of a storage, given its dtype, key,
            original device and number of elements.
        size (int): Size of the file in bytes.
        trusted (Mapping[str, Any], optional): Further classes that the user trusts, by
            full name. Defaults to None.
    """

    pop_mark: Callable[[], list[Any]]  # inherited, without a type hint

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
        self.advice = NO_LIST if trusted is None else LIST

    def load(self) -> Any:
        """Return the content of the pickle.

        Raises:
            RefusedError: If it contains an unknown name, or exceeds a limit.
            Exception: Of almost any type, if it is damaged.
        """
        self.metastack: list[list[Any]] = []
        self.stack: list[Any] = []
        self.append = self.stack.append
        for _ in range(MAX_OPCODES):
            code = self.read(1)
            if code == pickle.STOP:
                break
            if code not in HANDLERS:
                raise RefusedError(f'it has the opcode {printable(code)}')
            HANDLERS[code](self)
        else:
            raise RefusedError(f'it has more than {MAX_OPCODES:,} opcodes')
        (result,) = self.stack
        check_data(result)
        return result

    def find_class(self, module: str, name: str) -> Any:
        """Return the substitute for a name."""
        # Protocol 2 writes the module by its name in Python 2.
        module = 'builtins' if module == '__builtin__' else module
        path = f'{module}.{name}'
        found = KNOWN.get(path) or self.trusted.get(path)
        if found is None:
            if kind := re.match(r'torch._utils._rebuild_(\w*?)_?tensor', path):
                raise RefusedError(f'it has a {printable(kind[1])} tensor')
            raise RefusedError(f'it asks for {printable(path)}. {self.advice}')
        return found

    def is_trusted(self, item: object) -> bool:
        """Return whether the user trusts a class or function."""
        return any(item is trusted for trusted in self.trusted.values())

    def persistent_load(self, pid: Any) -> Storage:
        """Load a storage, or return the one loaded before."""
        require(
            type(pid) is tuple
            and pid[0] == 'storage'
            and [type(part) for part in pid[1:5]] == [torch.dtype, str, str, int]
            and pid[5:] in ((), (None,)),
            'it has an invalid storage',
        )
        dtype, key, location, numel = pid[1:5]
        if key not in self.storages:
            memory = self.load_memory(dtype, key, location, numel)
            self.storages[key] = Storage(memory, dtype)
        found = self.storages[key]
        same_size = found.memory.nbytes() == numel * dtype.itemsize
        require(found.dtype == dtype and same_size, 'a storage has two dtypes or sizes')
        return found

    def load_frame(self) -> None:
        """Skip the length of a frame, which is not needed."""
        self.read(8)

    # Containers

    def load_additems(self) -> None:
        """Put items into the set below them."""
        items = self.pop_mark()
        target = self.stack[-1]
        valid = type(target) is set and all(map(is_key, items))
        require(valid, 'it has an invalid set')
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
        require(is_dict or self.is_trusted(type(target)), 'it sets items of a non-dict')
        for key, value in zip(items[::2], items[1::2], strict=True):
            require(is_key(key), f'it has a dict key of type {type(key).__name__}')
            if key in target:
                raise RefusedError(f'it has the key {printable(key)} twice')
            target[key] = value

    # Objects

    def load_reduce(self) -> None:
        """Call the substitute for a name, or a function that the user trusts."""
        args = self.stack.pop()
        function = self.stack.pop()
        require(type(args) is tuple, 'it calls a function without arguments')
        if self.is_trusted(function):
            result = function(*args)
        else:
            require(type(function) is Name, f'it calls a {type(function).__name__}')
            require(function.call, f'it calls {function.path}, which is not allowed')
            result = function.call(*args)
            self.count_bytes(result)
        self.append(result)

    def load_newobj(self) -> None:
        """Make an object of a trusted class; others are handled by `load_reduce`."""
        args, kind = self.stack[-1], self.stack[-2]
        if not self.is_trusted(kind):
            return self.load_reduce()
        self.stack[-2:] = [kind.__new__(kind, *args)]

    def load_build(self) -> None:
        """Set the state of the object below it."""
        state = self.stack.pop()
        target = self.stack[-1]
        for kind, set_state in STATES.items():
            if isinstance(target, kind):
                set_state(target, state)
                self.count_bytes(target)
                return
        name = type(target).__name__
        require(self.is_trusted(type(target)), f'it sets the state of a {name}')
        if hasattr(target, '__setstate__'):
            target.__setstate__(state)
        else:
            vars(target).update(state)

    def count_bytes(self, obj: object) -> None:
        """Refuse a small file that allocates much memory."""
        self.bytes_left -= sys.getsizeof(obj)
        if isinstance(obj, Tensor):  # it may repeat its storage
            self.bytes_left -= obj.numel() * obj.element_size()
        require(self.bytes_left >= 0, 'it allocates far more memory than its size')


HANDLERS: dict[bytes, Callable[[Any], None]] = {
    getattr(pickle, name): pickle._Unpickler.dispatch[getattr(pickle, name)[0]]
    for name in INHERITED
} | {getattr(pickle, name): getattr(Unpickler, f'load_{name.lower()}') for name in OWN}


def check_data(result: object) -> None:
    """Check that an object contains only data, and is neither too deep nor too large.

    Raises:
        RefusedError: If it contains a class or function, is too deep, or would be too
            large if shared items were copied.
    """
    level, seen = [result], 0
    for _ in range(MAX_DEPTH):
        children: list[Any] = []
        for item in level:
            is_reference = isinstance(item, Name | Storage | FunctionType)
            require(not is_reference, 'it has a class or function instead of data')
            if isinstance(item, dict):
                children += item.values()
                children.append(getattr(item, '_metadata', None))
            elif isinstance(item, list | tuple):
                children += item
            require(seen + len(children) <= MAX_ITEMS, 'it repeats its items too often')
        if not children:
            return
        level, seen = children, seen + len(children)
    raise RefusedError('its containers are too deep')
