"""Truncated and hostile checkpoints given to the mim commands.

tests/engine/test_resume.py tests which checkpoint is resumed, and
``python -m tests.checkpoint.attack`` tests the reader with all kinds of hostile files.
"""

import torch

from tests.checkpoint.test_reader import hostile_objects, save
from tests.helpers import DETECTOR


def test_resuming_from_a_truncated_file_is_an_error(mim, mini_coco, tmp_path):
    work_dir = tmp_path / 'run'
    work_dir.mkdir()
    asked_for = work_dir / 'epoch_2.pth'
    torch.save({'state_dict': {'a': torch.ones(1000)}}, asked_for)
    asked_for.write_bytes(asked_for.read_bytes()[:-300])
    result = mim(
        *('train', 'mmdet', DETECTOR, '--work-dir', work_dir, '--resume', asked_for),
        coco_root=mini_coco,
    )
    assert result.returncode != 0
    assert f'Cannot resume {asked_for}: it is cut off or damaged' in result.stdout
    assert '--resume without a name goes on from the newest' in result.stdout


def test_testing_a_hostile_file_is_refused(mim, mini_coco, tmp_path):
    path, mark = tmp_path / 'file.pth', tmp_path / 'mark'
    hostile = hostile_objects(mark)['posix.system']
    save({'state_dict': {}, 'message_hub': {'a': [hostile]}}, path)
    result = mim('test', 'mmdet', DETECTOR, '--checkpoint', path, coco_root=mini_coco)
    assert result.returncode != 0
    assert f'{path} is refused: it asks for posix.system' in result.stdout
    assert not mark.exists()
