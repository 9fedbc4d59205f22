"""Hostile and broken checkpoint files, by kind; ``attack`` loads them all.

Each builder writes one file. Its expected outcome:

``refused``   every reader refuses it
``unusable``  it is refused as a CrossFormer; MMEngine may read it as plain data
``harmless``  it may load, but the attack has no effect
"""

import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import pickle
import socket
import struct
import tarfile
import threading
import time
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from tests.checkpoint import kinds
from tests.checkpoint.test_reader import Calls, hostile_objects, named, save


class Case(NamedTuple):
    """A builder and the expected outcome of its file."""

    kind: str
    name: str
    build: Callable[[Path], object]
    outcome: str = 'refused'


CASES: list[Case] = []


def case(kind, outcome='refused'):
    """Register a function as a builder."""

    def register(build):
        CASES.append(Case(kind, build.__name__, build, outcome))
        return build

    return register


def add(kind, contents, write, outcome='refused'):
    """Register a builder for each content."""
    for name, content in contents.items():
        CASES.append(Case(kind, name, partial(write, content), outcome))


def checkpoint(**extra):
    """Return the content of a legitimate file, with extra entries."""
    return {'model': kinds.classifier_weights('tiny'), 'state_dict': {}, **extra}


def save_with_weights(make, path):
    """Save an object in a file with valid weights."""
    save(checkpoint(extra=make() if callable(make) else make), path)


# Calls

FUNCTIONS = [
    *('builtins.__import__', 'builtins.compile', 'builtins.open', 'builtins.setattr'),
    *('importlib.import_module', 'pickle.loads', 'marshal.loads', 'types.CodeType'),
    *('operator.attrgetter', 'operator.methodcaller', 'functools.partial'),
    *('shutil.rmtree', 'ctypes.CDLL', 'webbrowser.open', 'codecs.open', 'pty.spawn'),
    *('sys.setrecursionlimit', 'numpy.load', 'numpy.memmap', 'numpy.vectorize'),
    *('torch.jit.load', 'torch.package.PackageImporter', 'torch.save'),
    *('torch._utils._rebuild_wrapper_subclass', 'torch.storage._load_from_bytes'),
    *('torch.nn.modules.linear.Linear', 'mmengine.fileio.io.load'),
    *('mmengine.config.config.Config', 'mmengine.utils.package_utils.install_package'),
    *('yacs.config.importlib.import_module', 'crossformer_mm.checkpoint.reader.os'),
    *('_codecs.decode', '_codecs.register', 'collections.namedtuple'),
]


def call_by_name(name, path):
    module, _, function = name.rpartition('.')
    save_with_weights(Calls(named(function, module), str(path) + '.mark'), path)


add('calls', {name: name for name in FUNCTIONS}, call_by_name)
add(
    'calls',
    {f'{name} in a tuple': name for name in hostile_objects('mark')},
    lambda name, path: save_with_weights(
        (hostile_objects(f'{path}.mark')[name],), path
    ),
)

# Opcodes


def write_pickle(pickled, path, entries=None):
    """Write a file in the format of torch.save with this pickle."""
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('a/data.pkl', pickled)
        archive.writestr('a/version', b'3\n')
        for name, content in (entries or {}).items():
            archive.writestr(f'a/data/{name}', content)


def text(string):
    """Return the opcode of a string."""
    data = string.encode()
    return b'X' + struct.pack('<I', len(data)) + data


def name(path):
    """Return the opcode of a global."""
    return f'c{path.replace(" ", chr(10))}\n'.encode()


START = b'\x80\x02'
NESTED_PAIR = b')' + b'q\x00h\x00\x86' * 40
ENCODE = name('_codecs encode')
# Each list holds the previous one twice: 2^40 items when expanded.
ENDLESS = b'(]' + b'q\x00]h\x00ah\x00a' * 40 + b't'
OPCODES = {
    'empty': b'',
    'no end': START + b'N',
    'nothing on the stack': START + b'.',
    'two results': START + b'NN.',
    'tuple of nothing': START + b'\x85.',
    'mark without end': START + b'(.',
    'unknown memo': START + b'h\x07.',
    'unknown opcode': START + b'\xff.',
    'INST': START + b'(S"id"\nios\nsystem\n.',
    'OBJ': START + b'(cos\nsystem\nX\x02\x00\x00\x00ido.',
    'NEWOBJ_EX': START + name('collections OrderedDict') + b')}\x92.',
    'EXT1': START + b'\x82\x01.',
    'PERSID': START + b'Pstorage\n.',
    'POP': START + b'NN0.',
    'DUP': START + b']2a.',
    'STACK_GLOBAL': b'\x80\x04' + text('os') + text('system') + b'\x93.',
    'STACK_GLOBAL of no text': b'\x80\x04NN\x93.',
    'LONG of a million digits': START + b'L' + b'9' * 10**6 + b'L\n.',
    'LONG4 of a million bytes': START
    + b'\x8b\x40\x42\x0f\x00'
    + b'\x7f' * 10**6
    + b'.',
    'text of 4 GB': START + b'X\xff\xff\xff\xff.',
    'text of 2^63': b'\x80\x04\x8d' + b'\xff' * 7 + b'\x7f.',
    'bytes of 4 GB': b'\x80\x03B\xff\xff\xff\xff.',
    'tuple a million deep': START + b')' + b'\x85' * 10**6 + b'.',
    'list 10,000 deep': START + b']' * 10**4 + b'a' * (10**4 - 1) + b'.',
    'dict 10,000 deep': START + b'}N' * 10**4 + b'Ns' + b's' * (10**4 - 1) + b'.',
    'pairs 40 deep as a key': START + b'}' + NESTED_PAIR + b'Ns.',
    'pairs 40 deep as data': START + NESTED_PAIR + b'.',
    'lists of twice the last': START + ENDLESS + b'.',
    'ring': START + b']q\x00h\x00a.',
    'ring of two': START + b'(]q\x00]q\x01h\x00ah\x00h\x01at.',
    'change of a part': START + b']q\x00\x85h\x00Na0.',
    'key twice': START + b'}' + (text('a') + b'N') * 2 + b's.',
    'key twice, honest opcodes': START + b'}(' + (text('a') + b'N') * 2 + b'u.',
    'list for a key': START + b'}]Ns.',
    'key without value': START + b'}(Nu.',
    'items into a list': START + b'](NNu.',
    'items into a tensor class': START + name('torch Tensor') + b'(NNu.',
    'append to a dict': START + b'}Na.',
    'add to a list': b'\x80\x04](N\x90.',
    'set of a list': b'\x80\x04\x8f(]\x90.',
    'class for data': START + name('collections OrderedDict') + b'.',
    'function for data': START + b']' + name('_codecs encode') + b'a.',
    'state of a function': START + ENCODE + b'}' + text('__defaults__') + b'Nsb.',
    'state of a class': START
    + name('collections Counter')
    + b'}'
    + text('update')
    + b'Nsb.',
    'state of a history class': START
    + name('mmengine.logging.history_buffer HistoryBuffer')
    + b'}'
    + text('mean')
    + b'Nsb.',
    'state of a dict': START + b'}}b.',
    'call of a number': START + b'K\x01)R.',
    'call without a tuple': START + name('builtins set') + b'NR.',
    'NEWOBJ of a function': START + ENCODE + b')\x81.',
    'punycode': START + ENCODE + text('ä' * 300_000) + text('punycode') + b'\x86R.',
    'rot13': START + ENCODE + text('a') + text('rot13') + b'\x86R.',
    'bytes again and again': START
    + text('a' * 10**6)
    + b'q\x00]('
    + (ENCODE + b'h\x00' + text('latin1') + b'\x86R') * 20_000
    + b'e\x86.',
    'bytearray of 10 GB': START
    + name('__builtin__ bytearray')
    + b'\x8a\x05\x00\xe4\x0bT\x02\x85R.',
    'bytes of 10 GB, called': START
    + name('__builtin__ bytes')
    + b'\x8a\x05\x00\xe4\x0bT\x02\x85R.',
    'set of sets': START + name('__builtin__ set') + b'](]]e\x85R.',
    'three million opcodes': START + b'](' + b'N' * 3 * 10**6 + b'e.',
    'three million dicts': START + b'](' + b'}' * 3 * 10**6 + b'e.',
    'numbers that hash alike': START
    + b'}('
    + b''.join(
        b'\x8a\x0c' + (i * (2**61 - 1)).to_bytes(12, 'little') + b'N'
        for i in range(1, 100_000)
    )
    + b'u.',
    'size of text': START + name('torch Size') + b'(' + text('a') + b't\x85R.',
    'device of text': START + name('torch device') + text('evil') + b'\x85R.',
    'getattr of endless lists': START
    + name('__builtin__ getattr')
    + name('mmengine.logging.history_buffer HistoryBuffer')
    + ENDLESS
    + b'\x86R.',
    'coding of endless lists': START + ENCODE + text('a') + ENDLESS + b'\x86R.',
    'type of endless lists': START + name('numpy dtype') + ENDLESS + b'\x89\x88\x87R.',
    'sparse tensor of a megabyte': START
    + name(f'torch._utils _rebuild_{"x" * 10**6}tensor')
    + b'.',
    'protocol 0': pickle.dumps({'a': 1}, protocol=0),
    'attribute of a name': START
    + name('torch._utils _rebuild_tensor.__globals__')
    + b'.',
    'name with a space': START + b'ca b\nc d\n.',
    'name of a megabyte': START + b'ca\n' + b'b' * 10**6 + b'\n.',
}
add('opcodes', OPCODES, write_pickle)

# Tensors

FLOATS = struct.pack('<4f', 1, 2, 3, 4)


def storage(key='0', numel=4, kind='FloatStorage', location='cpu'):
    """Return the persistent id of a storage."""
    return (
        b'('
        + text('storage')
        + name(f'torch {kind}')
        + text(key)
        + text(location)
        + number(numel)
        + b'tQ'
    )


def number(value):
    """Return the opcode of an integer."""
    data = value.to_bytes(value.bit_length() // 8 + 1, 'little', signed=True)
    return b'\x8a' + bytes([len(data)]) + data


def numbers(*values):
    """Return the opcodes of a tuple of integers."""
    return b'(' + b''.join(map(number, values)) + b't'


def tensor(offset=0, size=(4,), stride=(1,), memory=None, rest=b'\x89N'):
    """Return the pickle of a tensor."""
    return (
        START
        + name('torch._utils _rebuild_tensor_v2')
        + b'('
        + (storage() if memory is None else memory)
        + number(offset)
        + numbers(*size)
        + numbers(*stride)
        + rest
        + b'tR.'
    )


TENSORS = {
    'beyond its storage': tensor(size=(5,)),
    'beyond its storage by offset': tensor(offset=1),
    'beyond its storage by stride': tensor(stride=(2,)),
    'far beyond its storage': tensor(offset=2**61, size=(1,)),
    'before its storage': tensor(offset=-1, size=(1,)),
    'negative size': tensor(size=(-1,)),
    'negative stride': tensor(stride=(-1,)),
    'sizes without strides': tensor(stride=()),
    'empty but huge': tensor(size=(0, 2**39, 2**39, 2**39), stride=(0, 0, 0, 0)),
    'huge sizes': tensor(size=(2**39, 2**39), stride=(0, 0)),
    'a billion times one': tensor(size=(10**9,), stride=(0,)),
    'ten thousand dimensions': tensor(size=(1,) * 10**4, stride=(1,) * 10**4),
    'sizes of text': START
    + name('torch._utils _rebuild_tensor_v2')
    + b'('
    + storage()
    + b'K\x00'
    + text('a')
    + text('b')
    + b'\x89NtR.',
    'sizes in a tensor': START
    + name('torch._utils _rebuild_tensor_v2')
    + b'('
    + storage()
    + b'K\x00'
    + (tensor(size=(10**7,), stride=(0,))[2:-1] + b'q\x01h\x01')
    + b'\x89NtR.',
    'Size of a tensor': START
    + name('torch Size')
    + tensor(size=(10**7,), stride=(0,))[2:-1]
    + b'\x85R.',
    'dtype of endless lists': START
    + name('torch._utils _rebuild_tensor_v3')
    + b'('
    + storage()
    + b'K\x00'
    + numbers(1)
    + numbers(1)
    + b'\x89N'
    + ENDLESS
    + b'tR.',
    'no storage': tensor(memory=b'N'),
    'a list for a storage': tensor(memory=b']'),
    'storage that is not there': tensor(memory=storage('7')),
    'storage outside': tensor(memory=storage('../version', 1)),
    'storage too long': tensor(memory=storage(numel=5)),
    'storage too short': tensor(memory=storage(numel=3), size=(3,)),
    'storage of negative length': tensor(memory=storage(numel=-1)),
    'storage of another type': tensor(memory=storage(kind='DoubleStorage')),
    'storage of no type': tensor(memory=storage(kind='Size')),
    'storage of a quantized type': tensor(memory=storage(kind='QInt8Storage')),
    'storage of two types': START
    + tensor()[2:-1]
    + tensor(memory=storage(kind='IntStorage'))[2:-1]
    + b'\x86.',
    'storage for data': START + storage() + b'.',
    'persistent module': START + b'(' + text('module') + b'NNNtQ.',
    'persistent number': START + b'K\x01Q.',
    'persistent nothing': START + b')Q.',
    'a view of a storage': START + storage()[:-2] + text('view') + b'tQ.',
    'conjugate': tensor(rest=b'\x89N}' + text('conj') + b'\x88s'),
    'views again and again': START
    + b'('
    + tensor(size=(10**6,), stride=(0,))[2:-1] * 1000
    + b't.',
    'parameter of a list': START
    + name('torch._utils _rebuild_parameter')
    + b'(]\x88NtR.',
    'made by another function': START
    + name('torch._tensor _rebuild_from_type_v2')
    + b'('
    + ENCODE
    + b'N)NtR.',
    'made by itself': START
    + name('torch._tensor _rebuild_from_type_v2')
    + b'q\x00(h\x00N(h\x00N)NtNtR.',
    'state of a tensor': START + tensor()[2:-1] + b'}b.',
    'new tensor class': START + name('torch Tensor') + b')\x81.',
    'called tensor class': START + name('torch Tensor') + b')R.',
}
add('tensors', TENSORS, partial(write_pickle, entries={'0': FLOATS}))


@case('tensors', 'harmless')
def attributes_of_a_tensor(path):
    content = checkpoint()
    tensor = content['model']['norm.bias']
    tensor = content['model']['norm.bias'] = tensor.clone()
    tensor.detach = tensor.numel = tensor.shape_of = torch.Size
    save(content, path)


@case('tensors', 'harmless')
def truth_values_of_other_numbers(path):
    pickled = tensor(memory=storage(numel=16, kind='BoolStorage'), size=(16,))
    write_pickle(pickled, path, {'0': bytes(range(240, 256))})


def save_invalid_weight(change, path):
    """Save a classifier with weights that are not plain dense tensors."""
    weights = kinds.classifier_weights('tiny')
    weights['norm.bias'] = change(weights['norm.bias'])
    weights['a.num_batches_tracked'] = change(torch.ones(4, 4))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.save({'model': weights}, path)


def quantize(weight):
    return torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)


INVALID_WEIGHTS = {
    'sparse': lambda weight: weight.to_sparse(),
    'sparse rows': lambda weight: torch.eye(4).to_sparse_csr(),
    'quantized': quantize,
    'nested': lambda weight: torch.nested.nested_tensor([weight, weight]),
    'meta': lambda weight: weight.to('meta'),
    'conjugate weight': lambda weight: torch.complex(weight, weight).conj(),
}
if torch.__version__ < '2.4':
    del INVALID_WEIGHTS['nested']  # cannot be saved before torch 2.4
add('tensors', INVALID_WEIGHTS, save_invalid_weight)

# NumPy arrays and the log


class Builds:
    """Is pickled as a call and a state."""

    def __init__(self, call, state):
        self.reduced = *call, state

    def __reduce__(self):
        return self.reduced


def forged(code, *state):
    return Builds((np.dtype, (code, False, True)), state)


RECONSTRUCT = np.empty(0).__reduce__()[0]
SCALAR = np.float64(0).__reduce__()[0]
ADDRESS = (0x414141414140).to_bytes(8, 'little')


def array(shape, dtype, raw):
    """Return a pickled array with forged metadata."""
    return Builds(
        (RECONSTRUCT, (np.ndarray, (0,), b'b')), (1, shape, dtype, False, raw)
    )


NUMPY = {
    'object array over its bytes': lambda: Calls(
        np.ndarray, (1,), Calls(np.dtype, 'O'), bytearray(ADDRESS)
    ),
    'set of an object array': lambda: Calls(
        set, [Calls(np.ndarray, (1,), Calls(np.dtype, 'O'), bytearray(ADDRESS))]
    ),
    'history of an object array': lambda: Calls(
        HistoryBuffer,
        Calls(np.ndarray, (1,), Calls(np.dtype, 'O'), bytearray(ADDRESS)),
        [1],
    ),
    'called array': lambda: Calls(np.ndarray, (1,), np.dtype('f8'), bytearray(ADDRESS)),
    'array of objects': lambda: array((1,), Calls(np.dtype, 'O8'), [{}]),
    'honest array of objects': lambda: np.array([{}, 1], dtype=object),
    'fields': lambda: np.zeros(2, dtype=[('a', 'f4'), ('b', 'i8')]),
    'void': lambda: np.zeros(2, dtype='V8'),
    'dates': lambda: np.zeros(2, dtype='M8[s]'),
    **{
        f'flags {flags}': partial(forged, 'f8', 3, '<', None, None, None, -1, -1, flags)
        for flags in (1, 4, 8, 17, 63)
    },
    'items of a megabyte': lambda: forged('f8', 3, '<', None, None, None, 10**6, 8, 0),
    'field far off': lambda: forged(
        'V8', 3, '|', None, ('a',), {'a': (np.dtype('f8'), 10**9)}, 8, 1, 16
    ),
    'array inside of 10^9': lambda: forged(
        'f8', 3, '<', (np.dtype('f8'), (10**9,)), None, None, -1, -1, 0
    ),
    'names without fields': lambda: forged('f8', 3, '<', None, ('a',), None, -1, -1, 0),
    'metadata': lambda: forged('f8', 4, '<', None, None, None, -1, -1, 0, {'a': 1}),
    'state of another length': lambda: forged('f8', 3, '<'),
    'state of a subclass': lambda: forged('f8', True, '<', None, None, None, -1, -1, 0),
    'text of a terabyte': lambda: Calls(np.dtype, 'U999999999999'),
    'type of types': lambda: Calls(np.dtype, [('a', 'O')]),
    'too few bytes': lambda: array((10**6,), np.dtype('f8'), ADDRESS),
    'too many bytes': lambda: array((1,), np.dtype('f4'), ADDRESS),
    'negative shape': lambda: array((-1, -1), np.dtype('f8'), ADDRESS),
    'huge shape': lambda: array((0, 2**39, 2**39), np.dtype('f8'), b''),
    'shape of text': lambda: array(('a',), np.dtype('f8'), ADDRESS),
    'bytearray for bytes': lambda: array((1,), np.dtype('f8'), bytearray(ADDRESS)),
    'type for a type': lambda: array((1,), 'O', ADDRESS),
    'array of another class': lambda: Builds(
        (RECONSTRUCT, (OrderedDict, (0,), b'b')), (1, (1,), np.dtype('f8'), False, b'')
    ),
    'number with too few bytes': lambda: Calls(SCALAR, np.dtype('f8'), b'1'),
    'number of an object': lambda: Calls(SCALAR, Calls(np.dtype, 'O8'), ADDRESS),
    'array of no letters': lambda: array((1,), np.dtype('<U2'), b'\xff' * 8),
    'text of no letters': lambda: Calls(SCALAR, np.dtype('<U2'), b'\xff' * 8),
    'getattr of a method': lambda: Calls(getattr, HistoryBuffer, '__setstate__'),
    'getattr of a module': lambda: Calls(getattr, np.dtype, 'mean'),
    'getattr of a dict': lambda: Calls(getattr, {}, 'mean'),
    'history with arguments': lambda: Calls(HistoryBuffer, [1], [1]),
    'history with a number': lambda: Builds((HistoryBuffer, ()), 1),
    'history with other statistics': lambda: Builds(
        (HistoryBuffer, ()),
        {
            'max_length': 1,
            '_log_history': np.ones(1),
            '_count_history': np.ones(1),
            'statistics_methods': {'mean': HistoryBuffer.min},
        },
    ),
    'history with methods': lambda: Builds(
        (HistoryBuffer, ()),
        {
            'max_length': 1,
            '_log_history': np.ones(1),
            '_count_history': np.ones(1),
            'update': HistoryBuffer.min,
        },
    ),
    'statistic for data': lambda: HistoryBuffer.mean,
}
add('NumPy', NUMPY, save_with_weights)

# The zip archive


def rezip(change, path):
    """Write a legitimate file, then rewrite its zip archive."""
    kinds.classifier(path, 'tiny')
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    with warnings.catch_warnings(), zipfile.ZipFile(path, 'w') as archive:
        warnings.simplefilter('ignore')
        change(archive, entries)


def compressed(how):
    def change(archive, entries):
        for name, content in entries.items():
            stored = name.endswith('.pkl') or 'data/' not in name
            method = zipfile.ZIP_STORED if stored else how
            archive.writestr(name, content, method)

    return change


def renamed(old, new):
    def change(archive, entries):
        for name, content in entries.items():
            archive.writestr(name.replace(old, new), content)

    return change


def with_entry(name, content):
    def change(archive, entries):
        for old, old_content in entries.items():
            archive.writestr(old, old_content)
        archive.writestr(name, content)

    return change


def entry_of_zeros(archive, entries):
    """Write an entry of 8 GB of zeros that takes a few kilobytes."""
    compressed(zipfile.ZIP_STORED)(archive, entries)
    with archive.open(zipfile.ZipInfo('file/zeros'), 'w') as entry:
        entry.write(bz2.compress(bytes(2**24)))
    info = archive.filelist[-1]
    info.compress_type, info.file_size = zipfile.ZIP_BZIP2, 2**33


def overlapping(archive, entries):
    """Write a thousand entries that share the same megabyte."""
    compressed(zipfile.ZIP_STORED)(archive, entries)
    archive.writestr('file/data/x', bytes(10**6))
    for i in range(1000):
        info = zipfile.ZipInfo(f'file/data/y{i}')
        for field in ('header_offset', 'file_size', 'compress_size', 'CRC'):
            setattr(info, field, getattr(archive.NameToInfo['file/data/x'], field))
        archive.filelist.append(info)
        archive.NameToInfo[info.filename] = info


ZIPS = {
    'deflated': compressed(zipfile.ZIP_DEFLATED),
    'bzip2': compressed(zipfile.ZIP_BZIP2),
    'lzma': compressed(zipfile.ZIP_LZMA),
    'entry of 8 GB of zeros': entry_of_zeros,
    'entry twice': with_entry('file/data/0', bytes(4)),
    'overlapping entries': overlapping,
    'two pickles': with_entry('other/data.pkl', b'\x80\x02N.'),
    'TorchScript': with_entry('file/constants.pkl', b'\x80\x02).'),
    'no pickle': renamed('data.pkl', 'other.pkl'),
    'escape in the names': renamed('file/data/1', 'file/data/\x1b[31m1'),
    '100,001 entries': lambda archive, entries: [
        archive.writestr(f'file/data/{i}', b'') for i in range(100_001)
    ],
    'no entries': lambda archive, entries: None,
}
add('zip', ZIPS, rezip)


@case('zip')
def another_byte_order(path):
    def change(archive, entries):
        for name, content in entries.items():
            archive.writestr(name, b'big' if name.endswith('byteorder') else content)
        if not any(name.endswith('byteorder') for name in entries):
            archive.writestr('file/byteorder', b'big')

    rezip(change, path)


class Marks(nn.Module):
    """A module that creates a file when its scripted form is loaded."""

    def __init__(self, mark):
        super().__init__()
        self.mark: str = mark

    def forward(self, x):
        return x

    @torch.jit.export
    def __getstate__(self):
        return self.mark, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]):
        self.mark = state[0]
        self.training = state[1]
        torch.from_file(self.mark, True, 1)


@case('zip')
def scripted_module(path):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.jit.script(Marks(f'{path}.mark')).save(str(path))


def edited(edit, path):
    """Write a legitimate file and edit its bytes."""
    kinds.classifier(path, 'tiny')
    path.write_bytes(edit(bytearray(path.read_bytes())))


def flip_in_a_weight(data):
    data[len(data) // 2] ^= 1
    return data


def break_the_directory(data):
    end = data.rindex(b'PK\x05\x06')
    data[end + 16 : end + 20] = b'\xff\xff\xff\x7f'
    return data


def count_entries_wrongly(data):
    end = data.rindex(b'PK\x05\x06')
    data[end + 8 : end + 12] = b'\xff\xff\xff\xff'
    return data


def encrypt(data):
    for start in find_all(data, b'PK\x01\x02'):
        data[start + 8] |= 1
    return data


def break_local_headers(data):
    for start in find_all(data, b'PK\x03\x04')[1:]:
        data[start : start + 4] = b'KP\x03\x04'
    return data


def lengthen_entries(data):
    for start in find_all(data, b'PK\x01\x02'):
        data[start + 20 : start + 28] = b'\xfe\xff\xff\x7f' * 2
    return data


def find_all(data, what):
    found, start = [], data.find(what)
    while start >= 0:
        found.append(start)
        start = data.find(what, start + 1)
    return found


EDITS = {
    'a flipped bit': flip_in_a_weight,
    'cut off': lambda data: data[:-1000],
    'cut in half': lambda data: data[: len(data) // 2],
    'encrypted': encrypt,
    'local headers': break_local_headers,
    'entries of 2 GB': lengthen_entries,
    'something in front': lambda data: b'#!/bin/sh\n' + data,
    'only the start': lambda data: data[:4],
    'zeros': lambda data: bytes(len(data)),
}
add('zip', EDITS, edited)
# All entries and checksums are correct, so these load as intact files.
TOLERATED = {
    'directory elsewhere': break_the_directory,
    'count of entries': count_entries_wrongly,
}
add('zip', TOLERATED, edited, 'harmless')

# Files of torch before 1.6


def write_old(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def edited_old(edit, path):
    kinds.before_torch_1_6(path, 'tiny')
    path.write_bytes(edit(bytearray(path.read_bytes())))


def old_parts(
    content, keys, storages, start=0x1950A86A20F9469CFC6C, info=b'\x80\x02}.'
):
    """Return a file in the old format with the given parts."""
    parts = pickle.dumps(start, 2) + pickle.dumps(1001, 2) + info
    return parts + content + pickle.dumps(keys, 2) + storages


OLD_TENSOR = tensor(memory=storage()[:-2] + b'NtQ')
ONE = struct.pack('<q', 4) + FLOATS
OLD = {
    'storage not there': old_parts(OLD_TENSOR, [], b''),
    'another storage there': old_parts(OLD_TENSOR, ['1'], ONE),
    'storage twice': old_parts(OLD_TENSOR, ['0', '0'], ONE * 2),
    'keys of no text': old_parts(OLD_TENSOR, [['0']], ONE),
    'storage of another length': old_parts(
        OLD_TENSOR, ['0'], struct.pack('<q', 3) + FLOATS
    ),
    'storage of 2^62': old_parts(
        tensor(memory=storage(numel=2**60)[:-2] + b'NtQ'), ['0'], ONE
    ),
    'cut in a storage': old_parts(OLD_TENSOR, ['0'], ONE[:-1]),
    'another version': old_parts(
        OLD_TENSOR, ['0'], ONE, info=b'\x80\x02cos\nsystem\n.'
    ),
    'text of 4 GB in front': old_parts(
        OLD_TENSOR, [], b'', info=OPCODES['text of 4 GB']
    ),
    'tuple a million deep in front': old_parts(
        OLD_TENSOR, [], b'', info=OPCODES['tuple a million deep']
    ),
    'nothing after the number': old_parts(b'', [], b'')[:16],
}
add('before torch 1.6', OLD, lambda data, path: path.write_bytes(data))
add(
    'before torch 1.6',
    {'cut off': lambda data: data[:-1000], 'cut early': lambda data: data[:300]},
    edited_old,
)


@case('before torch 1.6')
def call(path):
    content = checkpoint(extra=hostile_objects(f'{path}.mark')['posix.system'])
    write_old(content, path)


# Archives not written by torch.save


def write_tar(mode, path):
    with tarfile.open(path, mode) as archive:
        archive.addfile(tarfile.TarInfo('pickle'), io.BytesIO())


add('tar', {mode: mode for mode in ('w', 'w:gz', 'w:bz2', 'w:xz')}, write_tar)


def tar_header():
    """Return a header that announces 8 GB of names."""
    info = tarfile.TarInfo('x')
    info.type, info.size = tarfile.XHDTYPE, 2**33
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(2**24)


BOMBS = {
    'header of 8 GB': lambda: tar_header(),
    'header of 8 GB, gz': lambda: gzip.compress(tar_header()),
    'header of 8 GB, bz2': lambda: bz2.compress(tar_header()),
    'header of 8 GB, xz': lambda: lzma.compress(tar_header()),
    'chain of long names': lambda: b''.join(
        tarfile.TarInfo('x' * 200).tobuf(tarfile.GNU_FORMAT) for _ in range(5000)
    ),
    'size of another base': lambda: (
        tarfile.TarInfo('x').tobuf()[:124] + b'\xff' * 12 + bytes(1000)
    ),
}
add('tar', BOMBS, lambda make, path: path.write_bytes(make()))

# Safetensors


def write_safetensors(header, path, data=bytes(16)):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack('<Q', len(header)) + header + data)


def entry(start=0, end=16, shape=(4,), dtype='F32'):
    return {'dtype': dtype, 'shape': list(shape), 'data_offsets': [start, end]}


SAFETENSORS = {
    'no weights': {},
    'header cut off': b'{"a": {"dtype"',
    'nested header': b'{"a":' * 10**5,
    'metadata of numbers': {'__metadata__': {'a': 1}, 'a': entry()},
    'overlapping': {'a': entry(), 'b': entry()},
    'beyond the end': {'a': entry(0, 10**12, (10**12 // 4,))},
    'before the start': {'a': entry(-16, 0)},
    'another shape': {'a': entry(shape=(5,))},
    'huge shape': {'a': entry(shape=(2**40, 2**40))},
    'unknown type': {'a': entry(dtype='OBJECT')},
    'bytes between': {'a': entry(4, 16, (3,))},
    'escape in a name': {'\x1b[31m\nfile   trusted': entry()},
    'name of a megabyte': {'a' * 10**6: entry()},
}
add('safetensors', SAFETENSORS, write_safetensors, 'unusable')


@case('safetensors')
def header_of_exabytes(path):
    path.write_bytes(struct.pack('<Q', 2**60) + b'{"a": 1}')


# Weights that torch loads but that do not fit a CrossFormer


def write_weights(change, path):
    weights = OrderedDict(kinds.classifier_weights('tiny'))
    content = change(weights)
    torch.save({'model': weights} if content is None else content, path)


def put(name, change=lambda tensor: tensor):
    def write(weights):
        weights[name] = change(weights.get(name, torch.zeros(1)))

    return write


BIAS = 'layers.0.blocks.0.norm1.bias'
WEIGHTS = {
    'twice, with module.': put(f'module.{BIAS}', lambda _: torch.ones(16)),
    'twice, with module.module.': put(f'module.module.{BIAS}'),
    'two backbones': lambda weights: weights.update(
        {f'a.{name}': tensor for name, tensor in list(weights.items())}
    ),
    'a missing one': lambda weights: weights.__delitem__(BIAS),
    'an unknown one': put('layers.0.other'),
    'another shape': put(BIAS, lambda tensor: tensor[:-1]),
    'NaN': put(BIAS, lambda tensor: tensor * float('nan')),
    'infinite': put(BIAS, lambda tensor: tensor + float('inf')),
    'whole numbers': put(BIAS, lambda tensor: tensor.long()),
    'complex': put(BIAS, lambda tensor: tensor + 0j),
    'text for a weight': put(BIAS, lambda tensor: 'x'),
    'no dict': lambda weights: list(weights),
    'nothing': lambda weights: {},
    'a dict of none': lambda weights: {'state_dict': None, 'model': 3},
    'escape in a name': put('layers.0.\x1b[2J\x1b]0;x\x07other'),
    'lines in a name': put('layers.0.x\nfile        trusted\nSHA-256     0'),
    'a lone surrogate in a name': put('layers.0.\ud800'),
    'writing from right to left': put('layers.0.\u202eother'),
    'a name of a megabyte': put('layers.0.' + 'x' * 10**6),
    '100,000 names': lambda weights: weights.update(
        {f'layers.0.x{i}': i for i in range(100_000)} | {'layers.0.y': torch.ones(1)}
    ),
    'a stage of 5,000 digits': put(f'layers.{"9" * 5000}.x'),
    'a number for a name': put(7),
    'a tuple for a name': put(('layers', 0)),
    'backbones of odd names': lambda weights: weights.update(
        {f'\x1b[{i}m.{name}': t for i in range(3) for name, t in list(weights.items())}
    ),
}
add('names and weights', WEIGHTS, write_weights, 'unusable')

KEYS = {
    'escape in a key': {'\x1b[2J\nkind        trusted': 1},
    'entries of a dict of weights': {'get': 1, 'items': 2, 'values': 3},
    'classes of odd things': {'meta': {'CLASSES': {'a': {1, 2}}, 'PALETTE': b'x'}},
    'classes that are arrays': {'meta': {'CLASSES': np.array(['a', 'b'])}},
    'meta that is no dict': {'meta': [1]},
}
add(
    'names and weights',
    KEYS,
    lambda extra, path: torch.save(checkpoint(**extra), path),
    'harmless',
)


@case('names and weights', 'harmless')
def methods_of_the_dict(path):
    weights = kinds.classifier_weights('tiny')
    weights.get = weights.items = weights.values = weights.keys = HistoryBuffer
    content = OrderedDict(model=weights)
    content.get = content.items = Counter
    torch.save(content, path)


# Paths that are not checkpoint files


@case('paths')
def pipe(path):
    os.mkfifo(path)


@case('paths')
def zeros_without_end(path):
    path.symlink_to('/dev/zero')


@case('paths')
def random_numbers_without_end(path):
    path.symlink_to('/dev/urandom')


@case('paths')
def link_to_nowhere(path):
    path.symlink_to('nowhere')


@case('paths')
def link_to_itself(path):
    path.symlink_to(path)


@case('paths')
def folder(path):
    path.mkdir()


@case('paths')
def socket_file(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@case('paths')
def empty(path):
    path.touch()


@case('paths')
def nothing(path):
    pass


@case('paths')
def forbidden(path):
    path.symlink_to('/proc/1/mem')


@case('paths')
def sparse_terabyte(path):
    path.write_bytes(b'PK\x03\x04')
    os.truncate(path, 2**40)


@case('paths', 'unusable')
def sparse_terabyte_of_old_torch(path):
    path.write_bytes(old_parts(OLD_TENSOR, ['0'], ONE))
    os.truncate(path, 2**40)


@case('paths')
def web_page(path):
    path.write_text('<!DOCTYPE html>\x1b[31m')


@case('paths')
def pointer_of_git_lfs(path):
    path.write_text('version https://git-lfs.github.com/spec/v1')


# Servers; the builder writes the address to a file


def serve(answer, path, slowly=b''):
    """Answer each connection from a daemon thread.

    Args:
        answer (bytes, optional): Sent at once; None sends nothing and waits.
        path (Path): The address is written next to it, with suffix .url.
        slowly (bytes): Sent afterwards, two bytes per second.
    """
    listener = socket.create_server(('127.0.0.1', 0))

    def run():
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                if answer is None:
                    threading.Event().wait()
                connection.recv(10**4)
                connection.sendall(answer)
                for byte in slowly:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.5)

    threading.Thread(target=run, daemon=True).start()
    path.with_suffix('.url').write_text(
        f'http://127.0.0.1:{listener.getsockname()[1]}/file.pth'
    )


OK = b'HTTP/1.1 200 OK\r\n'
SERVERS = {
    'silence': None,
    'nothing at all': b'',
    'no HTTP': b'SSH-2.0-OpenSSH\r\n',
    'escape in a reason': b'HTTP/1.1 404 \x1b[2J\x1b[31mFound it\r\n\r\n',
    'reason of 60,000 letters': b'HTTP/1.1 500 ' + b'x' * 60_000 + b'\r\n\r\n',
    'cut off': OK + b'Content-Length: 1000\r\n\r\nPK\x03\x04',
    'cut in a chunk': OK + b'Transfer-Encoding: chunked\r\n\r\n100\r\nPK\x03\x04',
    'a length that is none': OK + b'Content-Length: x\r\n\r\nPK\x03\x04',
    'round and round': b'HTTP/1.1 302 Found\r\nLocation: /file.pth\r\n\r\n',
    'to a file': b'HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n',
    'headers without end': OK + b'A: b\r\n' * 10**5,
    'a web page': OK + b'\r\n<html>',
}
add('URLs', SERVERS, serve)
add(
    'URLs',
    {'drips in the headers': OK + b'A: ', 'drips in the file': OK + b'\r\nPK\x03\x04'},
    partial(serve, slowly=b'x' * 1000),
)
