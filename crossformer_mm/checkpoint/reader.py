"""Read a checkpoint file, or raise one clear error."""

import io
import os
import pickle
import stat
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import torch
from mmengine.fileio import get_local_path
from torch import Tensor
from torch.serialization import _get_restore_location

from .errors import CheckpointError, DamagedError, RefusedError, printable, require
from .unpickle import Unpickler

SECONDS = 8  # timeout for each 8 kB block of a download
COMPRESSED = (b'\x1f\x8b', b'BZh', b'\xfd7zXZ')
ZIP_START = b'PK\x03\x04'
# The pickled magic number at the start of a file of torch before 1.6.
LEGACY_START = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)

Restore = Callable[[torch.UntypedStorage, str], torch.UntypedStorage]
MapLocation = str | torch.device | dict[str, str] | Restore | None
Trusted = Mapping[str, Any] | None


def read_checkpoint(
    source: str, map_location: MapLocation = 'cpu', trusted: Trusted = None
) -> Any:
    """Read a file of torch.save or of safetensors.

    Nothing in it is executed. Classes that are not in ``names`` are refused.

    Args:
        source (str): A path, a URL, or an address of MMEngine's file clients.
        map_location: See ``torch.load``; files of safetensors and of torch before 1.6
            stay on the CPU. Defaults to 'cpu'.
        trusted (Mapping[str, Any], optional): Further classes that the caller trusts,
            by full name. Defaults to None.

    Raises:
        CheckpointError: If it cannot be fetched, is damaged, or is refused.
    """
    try:
        if source.startswith(('http://', 'https://')):
            with TemporaryDirectory() as folder:
                path = Path(folder, 'checkpoint')
                download(source, path)
                return _read_file(path, map_location, trusted)
        with get_local_path(os.path.expanduser(source)) as local:
            return _read_file(Path(local), map_location, trusted)
    except KeyError as error:
        raise CheckpointError(
            f'cannot be read: MMEngine has no file client for {error}.'
        ) from error
    except (OSError, ImportError, ValueError) as error:
        raise cannot_be_read(error) from error


def cannot_be_read(error: Exception) -> CheckpointError:
    """Return the error for a failure of the file system or of a server."""
    reason = getattr(error, 'strerror', None) or error
    return CheckpointError(f'cannot be read: {printable(reason)}.')


def download(url: str, path: Path) -> None:
    """Download a file; ``path`` is created only when it is complete.

    Raises:
        CheckpointError: If the server refuses, is too slow, or sends too little.
    """
    blocks = previous = 0
    errors: list[Exception] = []

    def count(number: int, block_size: int, size: int) -> None:
        nonlocal blocks
        blocks = number

    def fetch() -> None:
        try:
            urllib.request.urlretrieve(url, part, count)
        except Exception as error:  # network errors have many types
            errors.append(error)

    with TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder, path.name)
        # In a thread that can be abandoned: DNS and single reads have no timeout.
        thread = Thread(target=fetch, daemon=True)
        thread.start()
        thread.join(SECONDS)
        while thread.is_alive():
            if blocks == previous:
                errors.append(OSError(f'less than 8 kB came in {SECONDS} s'))
                break
            previous = blocks
            thread.join(SECONDS)
        if errors:
            raise cannot_be_read(errors[0]) from errors[0]
        os.replace(part, path)


def _read_file(path: Path, map_location: MapLocation, trusted: Trusted) -> Any:
    """Read a file in the format that its first bytes indicate."""
    # Reading a pipe or a device may never end.
    if not stat.S_ISREG(path.stat().st_mode):
        kind = 'Is a directory' if path.is_dir() else 'Is not a regular file'
        raise CheckpointError(f'cannot be read: {kind}.')
    with path.open('rb') as file:
        size = path.stat().st_size
        start = file.read(512)
        file.seek(0)
        try:
            if start[8:9] == b'{':
                return _read_safetensors(path)
            if start.startswith(ZIP_START):
                return _read_zip(file, size, map_location, trusted)
            if start.startswith(LEGACY_START):
                return _read_legacy(file, size, trusted)
        except CheckpointError:
            raise
        except Exception as error:  # a damaged file can fail in any way
            reason = printable(error) or type(error).__name__
            raise DamagedError(
                f'is cut off or damaged, get it again: {reason}. Nothing of it was run.'
            ) from error
    raise DamagedError(_describe_other_file(start))


def _describe_other_file(start: bytes) -> str:
    """Describe a file that is not a checkpoint, by its first bytes."""
    if not start:
        return 'is empty: get it again.'
    if start.lstrip().startswith(b'<'):
        return (
            'is a web page, not a checkpoint: a Google Drive link leads to a page '
            'first. Download the file itself, in a browser or with gdown.'
        )
    if start[257:262] == b'ustar' or start.startswith(COMPRESSED):
        return 'is a tar archive or compressed: give the checkpoint inside.'
    return 'is no checkpoint, or damaged: its first bytes are not those of torch.save.'


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
        raise DamagedError(f'is damaged, get it again: {printable(error)}.') from error


# The two formats of torch.save


def _read_zip(
    file: io.BufferedReader, size: int, map_location: MapLocation, trusted: Trusted
) -> Any:
    """Read the format of torch.save since torch 1.6.

    Args:
        file (BufferedReader): The file.
        size (int): Its size in bytes.
        map_location: See `read_checkpoint`.
        trusted: See `read_checkpoint`.

    Raises:
        RefusedError: If it contains more than data.
        Exception: Of almost any type, if it is damaged.
    """
    entries = _list_entries(file, size)
    pickles = [name for name in entries if name.endswith('/data.pkl')]
    require(len(pickles) == 1, 'it is a zip file, but not one of torch.save')
    folder = pickles[0].removesuffix('data.pkl')
    is_script = f'{folder}constants.pkl' in entries
    require(not is_script, 'it is a TorchScript archive, a program rather than weights')
    if byteorder := entries.get(f'{folder}byteorder'):
        little_endian = _read_entry(file, byteorder).numpy().tobytes() == b'little'
        require(little_endian, 'its numbers are not little-endian')
    restore_location = _get_restore_location(map_location)

    def read_storage(
        dtype: torch.dtype, key: str, location: str, numel: int
    ) -> torch.UntypedStorage:
        entry = entries.get(f'{folder}data/{key}')
        if entry is None:
            raise RefusedError('a tensor refers to a missing storage')
        same_size = entry.file_size == numel * dtype.itemsize
        require(same_size, 'the size of a storage differs from that of its zip entry')
        content = _to_storage(_read_entry(file, entry), dtype)
        return restore_location(content, location)

    pickled = io.BytesIO(_read_entry(file, entries[pickles[0]]).numpy().data)
    return Unpickler(pickled, read_storage, size, trusted).load()


def _list_entries(file: io.BufferedReader, size: int) -> dict[str, zipfile.ZipInfo]:
    """Return the entries of a zip by name.

    Duplicate names and compression are refused because programs read them differently,
    overlapping entries because a small file could then take a long time to read.
    """
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
    entries = {info.filename: info for info in infos}
    require(len(entries) == len(infos), 'its zip has two entries of one name')
    uncompressed = all(
        info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1
        for info in infos
    )
    require(uncompressed, 'its zip is compressed; torch.save compresses none')
    total = sum(info.file_size for info in infos)
    require(total <= size, 'entries of its zip overlap')
    return entries


def _read_entry(file: io.BufferedReader, entry: zipfile.ZipInfo) -> Tensor:
    """Read an entry of a zip as uint8, without the copies that ``zipfile`` makes.

    Raises:
        DamagedError: If its checksum differs from the one in the zip.
    """
    file.seek(entry.header_offset)
    header = file.read(30)
    lengths = (int.from_bytes(header[i : i + 2], 'little') for i in (26, 28))
    file.seek(sum(lengths), io.SEEK_CUR)
    content = _read_bytes(file, entry.file_size)
    checksum = zlib.crc32(content.numpy().data)
    if not header.startswith(ZIP_START) or checksum != entry.CRC:
        raise DamagedError(f'is damaged in {printable(entry.filename)}: get it again.')
    return content


def _read_legacy(file: io.BufferedReader, size: int, trusted: Trusted) -> Any:
    """Read the format of torch.save before torch 1.6, on the CPU; see `_read_zip`.

    The file has five pickles (magic number, version, sizes of types, content, keys of
    the storages), followed by the length and the bytes of each storage.
    """
    bytes_left = size

    def make_storage(
        dtype: torch.dtype, key: str, location: str, numel: int
    ) -> torch.UntypedStorage:
        nonlocal bytes_left
        bytes_left -= numel * dtype.itemsize
        require(numel >= 0 and bytes_left >= 0, 'its storages are larger than the file')
        return torch.UntypedStorage(numel * dtype.itemsize)

    for _ in ('the magic number', 'version', 'sizes'):
        Unpickler(file, make_storage, size).load()
    unpickler = Unpickler(file, make_storage, size, trusted)
    content, storages = unpickler.load(), unpickler.storages
    keys = Unpickler(file, make_storage, size).load()
    require(
        type(keys) is list
        and len(keys) == len(storages)
        and storages.keys() == {*keys},
        'a tensor refers to a missing storage',
    )
    for key in keys:
        memory, dtype = storages[key].memory, storages[key].dtype
        numel = int.from_bytes(file.read(8), 'little')
        same_size = numel * dtype.itemsize == len(memory)
        require(same_size, 'the size of a storage is wrong')
        memory.copy_(_to_storage(_read_bytes(file, len(memory)), dtype))
    return content


def _read_bytes(file: io.BufferedReader, size: int) -> Tensor:
    """Read bytes as uint8.

    Raises:
        DamagedError: If the file is truncated.
    """
    content = torch.empty(size, dtype=torch.uint8)
    if file.readinto(content.numpy().data) != size:
        raise DamagedError('is cut off, get it again.')
    return content


def _to_storage(content: Tensor, dtype: torch.dtype) -> torch.UntypedStorage:
    """Return bytes as a storage; torch relies on booleans being 0 or 1."""
    if dtype is torch.bool:
        content = (content != 0).byte()
    return content.untyped_storage()
