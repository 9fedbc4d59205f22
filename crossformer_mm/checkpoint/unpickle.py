"""A pickle read as data: what it says is looked at, never done.

torch's own weights-only reader differs from version to version, takes whatever the
process allows it, and has no limits. This one knows the names in ``allowed`` and the
opcodes below, on any torch, and a small file takes it little time and memory.
"""

import pickletools
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .allowed import (
    KNOWN,
    ODD_TENSORS,
    STATES,
    Name,
    Statistic,
    Storage,
    demand,
    is_key,
)
from .text import shown

# Far beyond an honest checkpoint: it has about 60 opcodes for a weight and the state
# of its optimizer, and its containers are ten deep.
MAX_OPCODES = 2_000_000
MAX_DEPTH = 100
MAX_ITEMS = 10_000_000  # of the whole tree; what it shares is counted each time
# Bytes that may be made: by each byte of the file, and by any file.
GROWTH = 8
FREE_BYTES = 2**26

PUSHED = {
    *('BININT', 'BININT1', 'BININT2', 'LONG1', 'BINFLOAT'),
    *('BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8'),
    *('BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8', 'BYTEARRAY8'),
    'SHORT_BINSTRING',
}
CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False, 'EMPTY_TUPLE': ()}
EMPTY = {'EMPTY_LIST': list, 'EMPTY_DICT': dict, 'EMPTY_SET': set}
TUPLES = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}
IGNORED = {'PROTO', 'FRAME'}


class Unpickler:
    """Reads one pickle.

    Args:
        load_storage (Callable): Returns a ``Storage``, given the type of its numbers,
            its key, the device it was on and how many numbers it has.
        size (int): Bytes of the file.
        trusted (Mapping[str, Any], optional): Further classes by full name, which the
            user answers for. Defaults to None.
    """

    def __init__(
        self,
        load_storage: Callable[[torch.dtype, str, str, int], Storage],
        size: int,
        trusted: Mapping[str, Any] | None = None,
    ) -> None:
        self.load_storage = load_storage
        self.bytes_left = GROWTH * size + FREE_BYTES
        self.trusted = trusted or {}
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        # Of each container: itself, so that its id stays its own; how deep and how
        # large it is; whether there is in it what is no data; whether it is in another.
        self.containers: dict[int, list[Any]] = {}

    def load(self, file: BinaryIO) -> Any:
        """Read up to the end of the pickle.

        Raises:
            UnpicklingError: If it asks for what is not known, or for too much.
            Exception: If it is damaged; almost any.
        """
        for count, (opcode, arg, _) in enumerate(pickletools.genops(file)):
            name = opcode.name
            if count == MAX_OPCODES:
                raise UnpicklingError(f'it has more than {count:,} opcodes')
            if name in PUSHED:
                self.stack.append(arg)
            elif name in CONSTANTS:
                self.stack.append(CONSTANTS[name])
            elif name in ('BINPUT', 'LONG_BINPUT'):
                self.memo[arg] = self.stack[-1]
            elif name == 'MEMOIZE':
                self.memo[len(self.memo)] = self.stack[-1]
            elif name in ('BINGET', 'LONG_BINGET'):
                self.stack.append(self.memo[arg])
            elif name in EMPTY:
                made = EMPTY[name]()
                self.containers[id(made)] = [made, 1, 1, False, False]
                self.stack.append(made)
            elif name in TUPLES:
                self.push_tuple([self.stack.pop() for _ in range(TUPLES[name])][::-1])
            elif name == 'MARK':
                self.marks.append(self.stack)
                self.stack = []
            elif name == 'GLOBAL':
                self.find(*arg.split(' ', 1))
            elif name == 'STOP':
                break
            elif name not in IGNORED:
                method = getattr(self, f'_do_{name.lower()}', None)
                demand(method, f'it has the opcode {name}')
                method()
        (result,) = self.stack
        _, _, foreign = self.measure(result)
        demand(not foreign, 'it has classes or functions in the place of data')
        return result

    def pop_mark(self) -> list[Any]:
        """Return what was pushed since the last mark."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    # Containers

    def measure(self, item: Any) -> tuple[int, int, bool]:
        """Return how deep and how large an item is, and whether it is no data."""
        if found := self.containers.get(id(item)):
            return found[1], found[2], found[3]
        return 1, 1, isinstance(item, Name | Statistic | Storage)

    def contain(self, container: Any, items: list[Any]) -> Any:
        """Note that a container gets items, which stay as they are from now on."""
        entry = self.containers.setdefault(
            id(container), [container, 1, 1, False, False]
        )
        # A change of what is part of another would go unnoticed there.
        demand(not entry[4], 'it changes a container that is part of another')
        for item in items:
            depth, size, foreign = self.measure(item)
            entry[1] = max(entry[1], depth + 1)
            entry[2] += size
            entry[3] |= foreign
            if found := self.containers.get(id(item)):
                found[4] = True
        demand(not entry[4], 'it has a container that is part of itself')
        demand(entry[1] <= MAX_DEPTH, 'its containers are too deep')
        demand(entry[2] <= MAX_ITEMS, 'it repeats its items too often')
        return container

    def push_tuple(self, items: list[Any]) -> None:
        """Push a tuple; there is one empty tuple only, which is no container."""
        self.stack.append(self.contain(tuple(items), items) if items else ())

    def _do_tuple(self) -> None:
        self.push_tuple(self.pop_mark())

    def _do_append(self) -> None:
        item = self.stack.pop()
        self.extend([item])

    def _do_appends(self) -> None:
        self.extend(self.pop_mark())

    def extend(self, items: list[Any]) -> None:
        """Put items into the list on top."""
        target = self.stack[-1]
        demand(type(target) is list, 'it appends to what is no list')
        self.contain(target, items).extend(items)

    def _do_additems(self) -> None:
        items = self.pop_mark()
        target = self.stack[-1]
        demand(type(target) is set and all(map(is_key, items)), 'it has an odd set')
        self.contain(target, items).update(items)

    def _do_setitem(self) -> None:
        value = self.stack.pop()
        self.set_items([self.stack.pop(), value])

    def _do_setitems(self) -> None:
        self.set_items(self.pop_mark())

    def set_items(self, items: list[Any]) -> None:
        """Put keys and values into the dict on top."""
        target = self.stack[-1]
        fits = type(target) in (dict, OrderedDict, Counter)
        demand(fits or self.is_trusted(type(target)), 'it fills what is no dict')
        self.contain(target, items)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not is_key(key):
                raise UnpicklingError(f'a {type(key).__name__} is a key')
            if key in target:
                raise UnpicklingError(f'the key {shown(key)} is there twice')
            target[key] = value

    # Names, and what is made by them

    def _do_stack_global(self) -> None:
        name = self.stack.pop()
        module = self.stack.pop()
        demand(type(module) is type(name) is str, 'it asks for what is no name')
        self.find(module, name)

    def find(self, module: str, name: str) -> None:
        """Push what is known by a name."""
        # The usual protocol has the name that Python 2 gave the module.
        module = 'builtins' if module == '__builtin__' else module
        path = f'{module}.{name}'
        found = KNOWN.get(path) or self.trusted.get(path)
        if found is None:
            kind = ODD_TENSORS.get(path)
            what = f'it has a {kind} tensor' if kind else f'it asks for {shown(path)}'
            raise UnpicklingError(what)
        self.stack.append(found)

    def is_trusted(self, item: Any) -> bool:
        """Tell whether the user answers for a class or function."""
        return any(item is trusted for trusted in self.trusted.values())

    def _do_reduce(self) -> None:
        args = self.stack.pop()
        self.stack.append(self.call(self.stack.pop(), args))

    def _do_newobj(self) -> None:
        args = self.stack.pop()
        kind = self.stack.pop()
        if self.is_trusted(kind):
            self.stack.append(kind.__new__(kind, *args))
        else:
            self.stack.append(self.call(kind, args))

    def call(self, function: Any, args: tuple[Any, ...]) -> Any:
        """Call what stands for a name."""
        demand(type(args) is tuple, 'it calls a function without arguments')
        if self.is_trusted(function):
            return function(*args)
        demand(type(function) is Name, f'it calls a {type(function).__name__}')
        result = function.call(*args)
        if isinstance(result, Tensor):
            self.pay(result.numel() * result.element_size())
        if isinstance(result, dict | set | tuple) and type(result) is not Name:
            self.contain(result, list(args))
        self.pay(sys.getsizeof(result))
        return result

    def _do_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        set_state = next((f for kind, f in STATES if isinstance(target, kind)), None)
        if set_state is not None:
            if isinstance(target, OrderedDict) and type(state) is dict:
                self.contain(target, [state.get('_metadata')])
            set_state(target, state)
            self.pay(sys.getsizeof(target))
        elif not self.is_trusted(type(target)):
            raise UnpicklingError(f'it sets the state of a {type(target).__name__}')
        elif hasattr(target, '__setstate__'):
            target.__setstate__(state)
        else:
            vars(target).update(state)

    def pay(self, size: int) -> None:
        """Count bytes: a few of a file can make many, and that again and again."""
        self.bytes_left -= size
        demand(self.bytes_left >= 0, 'it makes far more of itself than it has bytes')

    def _do_binpersid(self) -> None:
        key = self.stack.pop()
        demand(
            type(key) is tuple
            and key[0] == 'storage'
            and [type(part) for part in key[1:5]] == [torch.dtype, str, str, int]
            and key[5:] in ((), (None,)),
            'it asks for an odd storage',
        )
        self.stack.append(self.load_storage(*key[1:5]))
