"""The two formats of torch.save: a zip since torch 1.6, a row of pickles before."""

import io
import zipfile
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .allowed import Storage, demand
from .text import shown
from .unpickle import Unpickler

ZIP_START = b'PK\x03\x04'
# A pickle of this number is what a file of torch before 1.6 starts with.
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
OLD_START = b'\x80\x02\x8a\x0a' + MAGIC_NUMBER.to_bytes(10, 'little') + b'.'
THREADS = 4  # that compute checksums
MAX_ENTRIES = 100_000  # of 20,000 weights with the state of their optimizer

MapLocation = str | torch.device | Mapping[str, str] | Callable | None


class Damaged(Exception):
    """A file is not as it was written; the message goes on after its name."""


def read_zip(
    path: Path,
    size: int,
    map_location: MapLocation,
    trusted: Mapping[str, Any] | None,
) -> Any:
    """Read what torch.save writes since torch 1.6.

    Args:
        path (Path): The file.
        size (int): Its bytes.
        map_location: See ``torch.load``.
        trusted (Mapping[str, Any], optional): Further classes, by full name.

    Raises:
        Exception: If it is damaged, or refused.
    """
    with path.open('rb') as file:
        archive = Archive(file, size)
        folder = archive.pickle.removesuffix('data.pkl')
        code = f'{folder}constants.pkl' in archive.entries
        demand(not code, 'it is a TorchScript archive, a program rather than weights')
        if f'{folder}byteorder' in archive.entries:
            little = bytes(archive.read(f'{folder}byteorder').numpy()) == b'little'
            demand(little, 'its numbers have the byte order of another machine')
        pickled = io.BytesIO(archive.read(archive.pickle).numpy())
        archive.check()
        storages: dict[str, Storage] = {}

        def load_storage(
            dtype: torch.dtype, key: str, location: str, numel: int
        ) -> Storage:
            if key not in storages:
                entry = f'{folder}data/{key}'
                there = entry in archive.entries
                demand(there, 'a tensor has a storage that is not there')
                content = archive.read(entry)
                whole = len(content) == numel * dtype.itemsize
                demand(whole, 'a storage has another size than its entry')
                memory = place(tidy(content, dtype), location, map_location)
                storages[key] = Storage(memory, dtype, numel)
            demand(storages[key][1:] == (dtype, numel), 'a storage is of two kinds')
            return storages[key]

        result = Unpickler(load_storage, size, trusted).load(pickled)
        archive.check()
        return result


class Archive:
    """The entries of a zip of torch.save.

    Args:
        file (BinaryIO): The zip.
        size (int): Its bytes.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file = file
        self.entries: dict[str, zipfile.ZipInfo] = {}
        self.contents: dict[str, Tensor] = {}
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
        demand(len(infos) <= MAX_ENTRIES, f'it has more than {MAX_ENTRIES:,} entries')
        for info in infos:
            # Of two entries of a name, and in an entry that is compressed, programs do
            # not see the same.
            once = info.filename not in self.entries
            demand(once, 'an entry of its zip is there twice')
            stored = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1
            demand(stored, 'its zip is compressed; torch.save compresses none')
            self.entries[info.filename] = info
        # Entries that share their bytes would be read again and again.
        total = sum(info.file_size for info in infos)
        demand(total <= size, 'entries of its zip overlap')
        pickles = [name for name in self.entries if name.endswith('/data.pkl')]
        demand(len(pickles) == 1, 'it is a zip, but not of torch.save')
        self.pickle = pickles[0]

    def read(self, name: str) -> Tensor:
        """Read the bytes of an entry; whether they are right, `check` says later."""
        info = self.entries[name]
        self.file.seek(info.header_offset)
        header = self.file.read(30)
        if not header.startswith(ZIP_START):
            raise Damaged(f'is damaged in {shown(name)}: get it again.')
        lengths = (int.from_bytes(header[i : i + 2], 'little') for i in (26, 28))
        self.file.seek(sum(lengths), io.SEEK_CUR)
        self.contents[name] = read_bytes(self.file, info.file_size)
        return self.contents[name]

    def check(self) -> None:
        """Compare the checksums of what was read since the last call.

        Raises:
            Damaged: If one is another than that in the zip.
        """
        contents = [content.numpy() for content in self.contents.values()]
        with ThreadPoolExecutor(THREADS) as threads:
            checksums = threads.map(zlib.crc32, contents)
        for name, checksum in zip(self.contents, checksums):
            if checksum != self.entries[name].CRC:
                raise Damaged(f'is damaged in {shown(name)}: get it again.')
        self.contents.clear()


def read_old(
    file: BinaryIO, size: int, trusted: Mapping[str, Any] | None = None
) -> Any:
    """Read what torch.save wrote before torch 1.6, onto the CPU; see ``read_zip``.

    The magic number, a version, sizes of types, the content and the keys of its
    storages, each a pickle; then the length and the bytes of each storage.
    """
    storages: dict[str, Storage] = {}
    left = size

    def load_storage(
        dtype: torch.dtype, key: str, location: str, numel: int
    ) -> Storage:
        nonlocal left
        if key not in storages:
            left -= numel * dtype.itemsize
            demand(numel >= 0 and left >= 0, 'its storages are larger than the file')
            memory = torch.UntypedStorage(numel * dtype.itemsize)
            storages[key] = Storage(memory, dtype, numel)
        demand(storages[key][1:] == (dtype, numel), 'a storage is of two kinds')
        return storages[key]

    pickles = Pickles(file, size)
    for expected in (MAGIC_NUMBER, 1001):
        found = Unpickler(load_storage, size).load(pickles)
        demand(found == expected, 'it starts as no file of torch.save')
    Unpickler(load_storage, size).load(pickles)  # sizes of C's types
    content = Unpickler(load_storage, size, trusted).load(pickles)
    keys = Unpickler(load_storage, size).load(pickles)
    demand(
        type(keys) is list
        and len(keys) == len(storages)
        and storages.keys() == {*keys},
        'a tensor has a storage that is not there',
    )
    for key in keys:
        numel = int.from_bytes(file.read(8), 'little')
        demand(numel == storages[key].numel, 'a storage has another size')
        memory, dtype, _ = storages[key]
        memory.copy_(tidy(read_bytes(file, len(memory)), dtype))
    return content


class Pickles:
    """A file to read pickles from, which asks for no more memory than there is file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size, self.tell = file, size, file.tell

    def readline(self) -> bytes:
        """Read a line, which is a name."""
        return self.file.readline(1000)

    def read(self, count: int) -> bytes:
        """Read so many bytes, or as many as are left."""
        return self.file.read(min(count, self.size))


def read_bytes(file: BinaryIO, size: int) -> Tensor:
    """Read bytes as uint8.

    Raises:
        Damaged: If the file ends before.
    """
    content = torch.empty(size, dtype=torch.uint8)
    if file.readinto(content.numpy()) != size:
        raise Damaged('is cut off, get it again.')
    return content


def tidy(content: Tensor, dtype: torch.dtype) -> torch.UntypedStorage:
    """Return the memory of bytes; each true value is a 1, as torch counts on."""
    if dtype is torch.bool:
        content = (content != 0).byte()
    return content.untyped_storage()


def place(
    storage: torch.UntypedStorage, location: str, map_location: MapLocation
) -> torch.UntypedStorage:
    """Move a storage to a device, as ``torch.load`` does."""
    if callable(map_location):
        moved = map_location(storage, location)
        if moved is not None:
            return moved
    elif isinstance(map_location, Mapping):
        location = map_location.get(location, location)
    elif map_location is not None:
        location = str(map_location)
    return torch.serialization.default_restore_location(storage, location)
