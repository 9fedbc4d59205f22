"""The two formats of torch.save: a zip since torch 1.6, a row of pickles before."""

import io
import zipfile
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import torch

from .allowed import Storage, demand
from .text import shown
from .unpickle import Unpickler

ZIP_START = b'PK\x03\x04'
# A pickle of this number is what a file of torch before 1.6 starts with.
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
OLD_START = b'\x80\x02\x8a\x0a' + MAGIC_NUMBER.to_bytes(10, 'little') + b'.'
CHUNK = 2**20
READERS = 4
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
    entries = {}
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
    demand(len(infos) <= MAX_ENTRIES, f'it has more than {MAX_ENTRIES:,} entries')
    for info in infos:
        # Of two entries of a name, and in an entry that is compressed, programs do
        # not see the same.
        demand(info.filename not in entries, 'an entry of its zip is there twice')
        stored = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1
        demand(stored, 'its zip is compressed; torch.save compresses none')
        entries[info.filename] = info
    # Entries that share their bytes would be read again and again.
    total = sum(info.file_size for info in entries.values())
    demand(total <= size, 'entries of its zip overlap')
    pickles = [name for name in entries if name.endswith('/data.pkl')]
    demand(len(pickles) == 1, 'it is a zip, but not of torch.save')
    folder = PurePosixPath(pickles[0]).parent
    code = f'{folder}/constants.pkl' in entries
    demand(not code, 'it is a TorchScript archive, a program rather than weights')
    if (order := entries.get(f'{folder}/byteorder')) is not None:
        little = read_entry(path, order) == b'little'
        demand(little, 'its numbers have the byte order of another machine')
    pickled = io.BytesIO(read_entry(path, entries[pickles[0]]))
    storages: dict[str, Storage] = {}

    def load_storage(
        dtype: torch.dtype, key: str, location: str, numel: int
    ) -> Storage:
        if key not in storages:
            demand(key in contents, 'a tensor has a storage that is not there')
            content = contents[key].result()
            whole = len(content) == numel * dtype.itemsize
            demand(whole, 'a storage has another size than its entry')
            memory = place(as_memory(content, dtype), location, map_location)
            storages[key] = Storage(memory, dtype, numel)
        demand(storages[key][1:] == (dtype, numel), 'a storage is of two kinds')
        return storages[key]

    data = f'{folder}/data/'
    # Checksums take as long as reading: some entries are read at a time.
    with ThreadPoolExecutor(READERS) as readers:
        contents = {
            name.removeprefix(data): readers.submit(read_entry, path, info)
            for name, info in entries.items()
            if name.startswith(data)
        }
        try:
            return Unpickler(load_storage, size, trusted).load(pickled)
        finally:
            readers.shutdown(cancel_futures=True)


def read_entry(path: Path, info: zipfile.ZipInfo) -> bytearray:
    """Read an entry of a zip, and check its checksum, as torch does not."""
    content = bytearray(info.file_size)
    with path.open('rb') as file:
        file.seek(info.header_offset)
        header = file.read(30)
        lengths = (int.from_bytes(header[i : i + 2], 'little') for i in (26, 28))
        file.seek(sum(lengths), io.SEEK_CUR)
        checksum = fill(content, file)
    if not header.startswith(ZIP_START) or checksum != info.CRC:
        raise Damaged(f'is damaged in {shown(info.filename)}: get it again.')
    return content


def read_old(
    file: BinaryIO, size: int, trusted: Mapping[str, Any] | None = None
) -> Any:
    """Read what torch.save wrote before torch 1.6, onto the CPU; see ``read_zip``.

    The magic number, a version, sizes of types, the content and the keys of its
    storages, each a pickle; then the length and the bytes of each storage.
    """
    storages: dict[str, Storage] = {}
    contents: dict[str, bytearray] = {}
    left = size

    def load_storage(
        dtype: torch.dtype, key: str, location: str, numel: int
    ) -> Storage:
        nonlocal left
        if key not in storages:
            left -= numel * dtype.itemsize
            demand(numel >= 0 and left >= 0, 'its storages are larger than the file')
            contents[key] = bytearray(numel * dtype.itemsize)
            memory = as_memory(contents[key], dtype)
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
        fill(contents[key], file)
        tidy(contents[key], storages[key].dtype)
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


def fill(content: bytearray, file: BinaryIO) -> int:
    """Fill a buffer from the file, and return the checksum of what was read."""
    checksum = 0
    view = memoryview(content)
    for start in range(0, len(view), CHUNK):
        part = view[start : start + CHUNK]
        if file.readinto(part) != len(part):
            raise Damaged('is cut off, get it again.')
        checksum = zlib.crc32(part, checksum)
    return checksum


def as_memory(content: bytearray, dtype: torch.dtype) -> torch.UntypedStorage:
    """Let torch use a buffer."""
    if not content:
        return torch.UntypedStorage(0)
    tidy(content, dtype)
    return torch.frombuffer(content, dtype=torch.uint8).untyped_storage()


def tidy(content: bytearray, dtype: torch.dtype) -> None:
    """Make each true value a 1: torch counts on it."""
    if dtype is torch.bool:
        content[:] = content.translate(b'\0' + b'\1' * 255)


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
