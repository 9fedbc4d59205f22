"""What a checkpoint file holds, or one clear error."""

import io
import os
import stat
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory
from threading import Thread
from types import SimpleNamespace
from typing import Any

import torch
from mmengine.fileio import get_local_path
from torch import Tensor
from torch.serialization import _get_restore_location

from .names import demand, shown
from .unpickle import Unpickler

# A download is given up once it brings fewer bytes in as many seconds.
SECONDS = 8
BYTES = 8_000
OF_STRANGERS = (
    'Its author can save the weights only: torch.save(model.state_dict(), FILE).'
)
OF_ONES_OWN = (
    'If you made it, torch.serialization.add_safe_globals([CLASS]) allows a class of '
    'yours.'
)
COMPRESSED = (b'\x1f\x8b', b'BZh', b'\xfd7zXZ')
ZIP_START = b'PK\x03\x04'
# A pickle of this number is what a file of torch before 1.6 starts with.
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
LEGACY_START = b'\x80\x02\x8a\x0a' + MAGIC_NUMBER.to_bytes(10, 'little') + b'.'
THREADS = 4  # that compute checksums
MAX_ENTRIES = 100_000  # of 20,000 weights with the state of their optimizer

MapLocation = str | torch.device | dict[str, str] | Callable | None
Trusted = Mapping[str, Any] | None


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message says which, why and what to do."""

    def __init__(self, message: str) -> None:
        # Names and reasons come from files and servers that nobody has checked.
        super().__init__(one_line(message))


def one_line(text: str) -> str:
    """Replace what is not printable, such as a line break, by its number."""
    return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


@contextmanager
def naming(source: str | Path) -> Iterator[None]:
    """Put the name of the file in front of the errors that are raised inside."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f'{source} {error}') from error.__cause__


def read_checkpoint(
    source: str, map_location: MapLocation = 'cpu', trusted: Trusted = None
) -> Any:
    """Read a file of torch.save or of safetensors.

    Nothing in it is executed, and a class that is not in ``names`` is refused by name.

    Args:
        source (str): A path, a URL, or what else MMEngine's file clients know.
        map_location: See ``torch.load``; files of safetensors and of torch before 1.6
            stay on the CPU. Defaults to 'cpu'.
        trusted (Mapping[str, Any], optional): Further classes by their full names,
            which the caller answers for. Defaults to None.

    Raises:
        CheckpointError: If it cannot be fetched, is damaged, or is refused.
    """
    try:
        with local_path(source) as path:
            return _read_file(path, map_location, trusted)
    except KeyError as error:
        raise CheckpointError(
            f'cannot be read: MMEngine has no file client for {error}.'
        ) from error
    except (OSError, ImportError, ValueError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise CheckpointError(f'cannot be read: {shown(reason)}.') from error


@contextmanager
def local_path(source: str) -> Iterator[Path]:
    """Yield the path of a file; of a remote one, that of a copy that is deleted."""
    if source.startswith(('http://', 'https://')):
        with TemporaryDirectory() as folder:
            path = Path(folder, 'checkpoint')
            download(source, path)
            yield path
    else:
        with get_local_path(os.path.expanduser(source)) as path:
            yield Path(path)


def download(url: str, path: Path) -> None:
    """Download a file, whole or not at all.

    Raises:
        CheckpointError: If the server refuses, is too slow, or sends too little.
    """
    errors: list[Exception] = []

    def fetch() -> None:
        try:
            with (
                urllib.request.urlopen(url, timeout=SECONDS) as answer,
                part.open('xb', buffering=0) as file,
            ):
                while chunk := answer.read1(2**20):
                    file.write(chunk)
                length = int(answer.headers.get('Content-Length') or file.tell())
                if length != file.tell():
                    raise OSError(f'of {length} bytes, {file.tell()} came: try again')
        except Exception as error:  # of many kinds, by the server's and network's fault
            errors.append(error)

    with TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder, path.name)
        # In a thread that can be abandoned: the timeout above is for each read only,
        # and DNS has none.
        thread = Thread(target=fetch, daemon=True)
        thread.start()
        size = before = 0
        while thread.is_alive():
            thread.join(SECONDS)
            before, size = size, part.stat().st_size if part.exists() else 0
            if thread.is_alive() and size - before < BYTES:
                errors.append(OSError(f'{size - before} bytes came in {SECONDS} s'))
                break
        if errors:
            reason = getattr(errors[0], 'strerror', None) or errors[0]
            raise CheckpointError(f'cannot be read: {shown(reason)}.') from errors[0]
        os.replace(part, path)


def _read_file(path: Path, map_location: MapLocation, trusted: Trusted) -> Any:
    # Reading a pipe or a device may never end.
    if not stat.S_ISREG(path.stat().st_mode):
        kind = 'Is a directory' if path.is_dir() else 'Is not a regular file'
        raise CheckpointError(f'cannot be read: {kind}.')
    with path.open('rb') as file:
        size = path.stat().st_size
        start = file.read(512)
        file.seek(0)
        if start[8:9] == b'{':
            return _read_safetensors(path)
        if not start.startswith((ZIP_START, LEGACY_START)):
            raise CheckpointError(_what_else(start))
        try:
            if start.startswith(ZIP_START):
                return _read_zip(file, size, map_location, trusted)
            return _read_legacy(file, size, trusted)
        except CheckpointError:
            raise
        except UnpicklingError as error:
            advice = OF_STRANGERS if trusted is None else OF_ONES_OWN
            raise CheckpointError(
                f'is refused: {error}. Nothing of it was run. {advice}'
            ) from error
        except Exception as error:  # a damaged file can fail in any way
            reason = shown(error) or type(error).__name__
            raise CheckpointError(
                f'is cut off or damaged, get it again: {reason}. Nothing of it was run.'
            ) from error


def _what_else(start: bytes) -> str:
    """Say what a file is that is no checkpoint, by how it starts."""
    if not start:
        return 'is empty: get it again.'
    if start.lstrip().startswith(b'<'):
        return (
            'is a web page, not a checkpoint: a Google Drive link leads to a page '
            'first. Download the file itself, in a browser or with gdown.'
        )
    if start[257:262] == b'ustar' or start.startswith(COMPRESSED):
        return 'is a tar archive or compressed: give the checkpoint inside.'
    return 'is no checkpoint, or damaged: it starts as no file of torch.save.'


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(
            'is a safetensors file, which needs: pip install safetensors'
        ) from error
    try:
        return load_file(path)
    except Exception as error:
        raise CheckpointError(f'is damaged, get it again: {shown(error)}.') from error


# The two formats of torch.save


def _read_zip(
    file: io.BufferedReader, size: int, map_location: MapLocation, trusted: Trusted
) -> Any:
    """Read what torch.save writes since torch 1.6.

    Args:
        file (BufferedReader): The file.
        size (int): Its bytes.
        map_location: See ``torch.load``.
        trusted (Mapping[str, Any], optional): Further classes, by full name.

    Raises:
        CheckpointError: If it is damaged.
        UnpicklingError: If it is refused.
        Exception: If it is damaged in another way.
    """
    archive = _Archive(file, size)
    folder = archive.pickle.removesuffix('data.pkl')
    code = f'{folder}constants.pkl' in archive.entries
    demand(not code, 'it is a TorchScript archive, a program rather than weights')
    if f'{folder}byteorder' in archive.entries:
        little = bytes(archive.read(f'{folder}byteorder').numpy()) == b'little'
        demand(little, 'its numbers have the byte order of another machine')
    pickled = io.BytesIO(archive.read(archive.pickle).numpy().tobytes())
    archive.check()
    restore_location = _get_restore_location(map_location)

    def read_storage(
        dtype: torch.dtype, key: str, location: str, numel: int
    ) -> torch.UntypedStorage:
        entry = f'{folder}data/{key}'
        demand(entry in archive.entries, 'a tensor has a storage that is not there')
        content = archive.read(entry)
        whole = len(content) == numel * dtype.itemsize
        demand(whole, 'a storage has another size than its entry')
        return restore_location(_to_storage(content, dtype), location)

    result = Unpickler(pickled, read_storage, size, trusted).load()
    archive.check()
    return result


class _Archive:
    """The entries of a zip of torch.save.

    Args:
        file (BufferedReader): The zip.
        size (int): Its bytes.
    """

    def __init__(self, file: io.BufferedReader, size: int) -> None:
        self.file = file
        self.entries: dict[str, zipfile.ZipInfo] = {}
        self.unchecked: dict[str, Tensor] = {}
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
        demand(len(infos) <= MAX_ENTRIES, f'it has more than {MAX_ENTRIES:,} entries')
        for info in infos:
            # Programs disagree on which of two entries counts, and on compression.
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
        """Read the bytes of an entry; `check` checks them."""
        info = self.entries[name]
        self.file.seek(info.header_offset)
        header = self.file.read(30)
        if not header.startswith(ZIP_START):
            raise CheckpointError(f'is damaged in {shown(name)}: get it again.')
        lengths = (int.from_bytes(header[i : i + 2], 'little') for i in (26, 28))
        self.file.seek(sum(lengths), io.SEEK_CUR)
        self.unchecked[name] = _read_bytes(self.file, info.file_size)
        return self.unchecked[name]

    def check(self) -> None:
        """Compare the checksums of what was read since the last call.

        Raises:
            CheckpointError: If one is another than that in the zip.
        """
        contents = [content.numpy() for content in self.unchecked.values()]
        with ThreadPoolExecutor(THREADS) as threads:
            checksums = threads.map(zlib.crc32, contents)
        for name, checksum in zip(self.unchecked, checksums):
            if checksum != self.entries[name].CRC:
                raise CheckpointError(f'is damaged in {shown(name)}: get it again.')
        self.unchecked.clear()


def _read_legacy(file: io.BufferedReader, size: int, trusted: Trusted) -> Any:
    """Read what torch.save wrote before torch 1.6, onto the CPU; see `_read_zip`.

    The magic number, a version, sizes of types, the content and the keys of its
    storages, each a pickle; then the length and the bytes of each storage.
    """
    left = size

    def make_storage(
        dtype: torch.dtype, key: str, location: str, numel: int
    ) -> torch.UntypedStorage:
        nonlocal left
        left -= numel * dtype.itemsize
        demand(numel >= 0 and left >= 0, 'its storages are larger than the file')
        return torch.UntypedStorage(numel * dtype.itemsize)

    # A text may claim any length: read no more than the file has.
    pickles = SimpleNamespace(
        read=lambda count: file.read(min(count, size)),
        readline=lambda: file.readline(1000),
    )
    for expected in (MAGIC_NUMBER, 1001):
        found = Unpickler(pickles, make_storage, size).load()
        demand(found == expected, 'it starts as no file of torch.save')
    Unpickler(pickles, make_storage, size).load()  # sizes of C's types
    unpickler = Unpickler(pickles, make_storage, size, trusted)
    content, storages = unpickler.load(), unpickler.storages
    keys = Unpickler(pickles, make_storage, size).load()
    demand(
        type(keys) is list
        and len(keys) == len(storages)
        and storages.keys() == {*keys},
        'a tensor has a storage that is not there',
    )
    for key in keys:
        storage = storages[key]
        numel = int.from_bytes(file.read(8), 'little')
        demand(numel == storage.numel, 'a storage has another size')
        raw = _read_bytes(file, len(storage.memory))
        storage.memory.copy_(_to_storage(raw, storage.dtype))
    return content


def _read_bytes(file: io.BufferedReader, size: int) -> Tensor:
    """Read bytes as uint8.

    Raises:
        CheckpointError: If the file ends before.
    """
    content = torch.empty(size, dtype=torch.uint8)
    if file.readinto(content.numpy().data) != size:
        raise CheckpointError('is cut off, get it again.')
    return content


def _to_storage(content: Tensor, dtype: torch.dtype) -> torch.UntypedStorage:
    """Return the memory of bytes; torch counts on truth values being 0 or 1."""
    if dtype is torch.bool:
        content = (content != 0).byte()
    return content.untyped_storage()
