"""A new file is written completely or not at all; no other file changes."""

import ctypes
import errno
import multiprocessing
import os
import resource
import signal

import pytest
import torch

from crossformer_mm.checkpoint.convert import RECORD, sha256, write_checkpoint
from crossformer_mm.checkpoint.reader import CheckpointError

CONTENT = {
    'meta': {RECORD: {'variant': 'S'}},
    'state_dict': {'a': torch.arange(300_000), 'b': torch.ones(3)},
}


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('publish', [False, True])
def test_only_the_file_is_written(suffix, publish, tmp_path):
    path = write_checkpoint(CONTENT, tmp_path / f'a{suffix}', publish)
    digits = f'-{sha256(path)[:8]}' if publish else ''
    assert path == tmp_path / f'a{digits}{suffix}'
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_existing_file_is_not_overwritten(suffix, tmp_path):
    path = tmp_path / f'a{suffix}'
    path.write_text('precious')
    with pytest.raises(CheckpointError, match='is there already'):
        write_checkpoint(CONTENT, path, publish=False)
    published = write_checkpoint(CONTENT, tmp_path / f'b{suffix}', publish=True)
    before = published.stat()
    with pytest.raises(CheckpointError, match='is there already'):
        write_checkpoint(CONTENT, tmp_path / f'b{suffix}', publish=True)
    assert path.read_text() == 'precious'
    assert published.stat() == before
    assert sorted(tmp_path.iterdir()) == [path, published]


@pytest.mark.parametrize(
    ('path', 'error'),
    [
        ('a.bin', 'must end in .pth or .safetensors'),
        ('nowhere/a.pth', 'there is no folder .*nowhere'),
        ('/proc/a.pth', 'cannot be written'),
        ('/proc/a.safetensors', 'cannot be written'),
    ],
)
def test_unwritable_paths(path, error, tmp_path):
    with pytest.raises(CheckpointError, match=error):
        write_checkpoint(CONTENT, tmp_path / path, publish=False)
    assert not list(tmp_path.iterdir())


def write_on_a_read_only_mount(folder, suffix):
    """Mount a folder read-only in this process; exit with 0 for the right error."""
    libc = ctypes.CDLL(None)
    new_mounts, read_only, remount, private = 0x20000, 1, 32, 1 << 18 | 1 << 14
    target = str(folder).encode()
    if libc.unshare(new_mounts) or any(
        libc.mount(b'none', where, kind, flags, None)
        for where, kind, flags in (
            (b'/', None, private),
            (target, b'tmpfs', 0),
            (target, b'tmpfs', read_only | remount),
        )
    ):
        os._exit(5)
    try:
        write_checkpoint(CONTENT, folder / f'a{suffix}', publish=False)
    except CheckpointError as error:
        os._exit('cannot be written: Read-only file system' not in str(error))
    os._exit(2)


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_read_only_mount(suffix, tmp_path):
    context = multiprocessing.get_context('fork')
    writing = context.Process(
        target=write_on_a_read_only_mount, args=(tmp_path, suffix)
    )
    writing.start()
    writing.join()
    if writing.exitcode == 5:
        pytest.skip('this process may not mount')
    assert writing.exitcode == 0


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_full_disk_leaves_no_file(suffix, tmp_path):
    """Simulate a full disk by a limit on the file size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        with pytest.raises(CheckpointError, match='cannot be written: .*too large'):
            write_checkpoint(CONTENT, tmp_path / f'a{suffix}', publish=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('links', [True, False])
def test_file_created_meanwhile_is_kept(suffix, links, tmp_path, monkeypatch):
    path = tmp_path / f'a{suffix}'
    fsync = os.fsync

    def write_theirs(file):
        path.write_text('precious')
        fsync(file)

    if not links:
        monkeypatch.setattr(os, 'link', no_links)
    monkeypatch.setattr(os, 'fsync', write_theirs)
    with pytest.raises(CheckpointError, match='is there already'):
        write_checkpoint(CONTENT, path, publish=False)
    assert path.read_text() == 'precious'
    assert list(tmp_path.iterdir()) == [path]


def no_links(*_):
    raise PermissionError(errno.EPERM, 'Operation not permitted')


def test_file_system_without_hard_links(tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'link', no_links)
    path = write_checkpoint(CONTENT, tmp_path / 'a.pth', publish=False)
    assert list(tmp_path.iterdir()) == [path]
    assert torch.load(path, weights_only=True)['state_dict']['b'].tolist() == [1, 1, 1]


def write_at_once(barrier, path, seed):
    content = {**CONTENT, 'state_dict': {'a': torch.full((100_000,), float(seed))}}
    barrier.wait()
    try:
        write_checkpoint(content, path, publish=False)
    except CheckpointError:
        os._exit(2)
    os._exit(0)


def test_only_one_concurrent_writer_succeeds(tmp_path):
    context = multiprocessing.get_context('fork')
    for round_ in range(4):
        path = tmp_path / f'{round_}.pth'
        barrier = context.Barrier(4)
        writers = [
            context.Process(target=write_at_once, args=(barrier, path, seed))
            for seed in range(4)
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        codes = [writer.exitcode for writer in writers]
        assert sorted(codes) == [0, 2, 2, 2]
        values = torch.load(path, weights_only=True)['state_dict']['a']
        assert (values == codes.index(0)).all()
    assert len(list(tmp_path.iterdir())) == 4


def test_dangling_symlink_is_not_overwritten(tmp_path):
    path = tmp_path / 'a.pth'
    path.symlink_to('nowhere')
    with pytest.raises(CheckpointError, match='is there already'):
        write_checkpoint(CONTENT, path, publish=False)
    assert [path.name for path in tmp_path.iterdir()] == ['a.pth']


def test_part_files_of_other_processes_are_kept(tmp_path):
    """A process in another container may use the same folder and process id."""
    theirs = tmp_path / f'.a.pth.{os.getpid()}.part'
    theirs.write_text('precious')
    write_checkpoint(CONTENT, tmp_path / 'a.pth', publish=False)
    assert theirs.read_text() == 'precious'


@pytest.mark.parametrize('letter', ['a', '文'])
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_longest_file_names(letter, suffix, tmp_path):
    bytes_left = 255 - len(suffix)
    name = letter * (bytes_left // len(letter.encode())) + suffix
    path = write_checkpoint(CONTENT, tmp_path / name, publish=False)
    assert list(tmp_path.iterdir()) == [path]
    for publish, longer in ((True, name.replace(letter, 'b', 1)), (False, 'x' + name)):
        longer = longer if publish else f'xxx{longer}'
        with pytest.raises(CheckpointError, match='cannot be written: File name too'):
            write_checkpoint(CONTENT, tmp_path / longer, publish)
    assert list(tmp_path.iterdir()) == [path]


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def write_half_and_die(_, file):
    file.write(bytes(50))
    file.flush()
    die()


@pytest.mark.parametrize(
    ('function', 'replacement'),
    [
        ('torch.save', write_half_and_die),
        ('os.fsync', die),
        ('os.link', die),
    ],
)
def test_killed_writer_leaves_a_part_file(function, replacement, tmp_path, monkeypatch):
    """Check that a killed process leaves no partial file under the final name."""
    other = tmp_path / 'other.pth'
    other.write_text('precious')
    with monkeypatch.context() as patch:
        patch.setattr(function, replacement)
        arguments = CONTENT, tmp_path / 'new.pth', False
        context = multiprocessing.get_context('fork')
        writing = context.Process(target=write_checkpoint, args=arguments)
        writing.start()
        writing.join()
    assert writing.exitcode == -signal.SIGKILL
    assert not (tmp_path / 'new.pth').exists()
    assert other.read_text() == 'precious'
    # The remaining part file has a clear name and does not block a second attempt.
    (part,) = tmp_path.glob('.new*')
    assert part.name.startswith('.new.pth.')
    assert part.suffix == '.part'
    write_checkpoint(CONTENT, tmp_path / 'new.pth', publish=False)
