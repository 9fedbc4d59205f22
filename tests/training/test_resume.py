"""--resume as a command; tests/engine/test_resume.py tries all that may happen."""

import torch

from tests.helpers import DETECTOR


def test_a_cut_off_file_asked_for_is_refused(mim, mini_coco, tmp_path):
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
