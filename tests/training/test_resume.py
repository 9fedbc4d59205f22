"""What --resume goes on from."""

import logging

import torch
from crossformer_mm.resume import checkpoints, newest_whole_checkpoint

from tests.conftest import DETECTOR

LOGGER = logging.getLogger('test')


def save(folder, *names):
    for name in names:
        torch.save({'state_dict': {'a': torch.ones(1000)}}, folder / name)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-300])


def test_the_latest_comes_first(tmp_path):
    save(
        tmp_path,
        'iter_9.pth',
        'iter_10.pth',
        'best_mAP_epoch_7.pth',
        'iter_11.pth.part',
    )
    assert [path.name for path in checkpoints(tmp_path)] == [
        'iter_10.pth',
        'iter_9.pth',
    ]


def test_one_that_was_cut_off_is_passed_over(tmp_path, caplog):
    save(tmp_path, 'epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth')
    cut_off(tmp_path / 'epoch_3.pth')
    # Where an interruption left the notes is of no matter.
    (tmp_path / 'last_checkpoint').write_text('')
    newest = newest_whole_checkpoint(str(tmp_path), LOGGER)
    assert newest == str(tmp_path / 'epoch_2.pth')
    assert f'Passed over: {tmp_path / "epoch_3.pth"} is cut off' in caplog.text


def test_checkpoints_may_lie_elsewhere(tmp_path):
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()
    save(elsewhere, 'epoch_1.pth')
    (tmp_path / 'last_checkpoint').write_text(str(elsewhere / 'epoch_1.pth'))
    newest = newest_whole_checkpoint(str(tmp_path), LOGGER)
    assert newest == str(elsewhere / 'epoch_1.pth')


def test_there_may_be_none(tmp_path):
    assert newest_whole_checkpoint(str(tmp_path), LOGGER) is None


def test_a_cut_off_file_asked_for_is_refused(mim, mini_coco, tmp_path):
    work_dir = tmp_path / 'run'
    work_dir.mkdir()
    save(work_dir, 'epoch_1.pth', 'epoch_2.pth')
    asked_for = work_dir / 'epoch_2.pth'
    cut_off(asked_for)
    result = mim(
        *('train', 'mmdet', DETECTOR, '--work-dir', work_dir, '--resume', asked_for),
        coco_root=mini_coco,
    )
    assert result.returncode != 0
    assert f'Cannot resume: {asked_for} is cut off or damaged' in result.stdout
    assert f'Resume {work_dir / "epoch_1.pth"}' in result.stdout
    assert 'runner.py' not in result.stdout
