"""Compute the metrics of an exported ONNX file on a config's test data.

    python tools/evaluate_onnx.py CONFIG OUT.onnx

Prints the same metrics as `mim test` does for the checkpoint.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor

from parts.onnx_agreement import open_session, paste_masks
from parts.output import fail


class OnnxModel(BaseModel):
    """Run an ONNX file in place of a detector or segmentor, for testing only."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.session = open_session(path)

    def forward(self, *_: Any, **__: Any) -> None:
        """Raise an error: training is not supported."""
        raise NotImplementedError

    def test_step(self, data: dict[str, list[Any]]) -> list[BaseDataElement]:
        """Return predictions for a batch, at the images' original size."""
        for image, sample in zip(data['inputs'], data['data_samples']):
            found = self.session.run(None, {'images': image[None].float().numpy()})
            found = [torch.from_numpy(array) for array in found]
            if self.session.get_outputs()[0].name == 'labels':
                sample.pred_sem_seg = label_map(found[0], sample.ori_shape)
            else:
                sample.pred_instances = instances(found, sample)
        return data['data_samples']


def label_map(labels: Tensor, shape: tuple[int, int]) -> PixelData:
    """Resize labels ``[1, H, W]`` to the shape of the original image."""
    resized = F.interpolate(labels[None].float(), shape, mode='nearest')[0]
    return PixelData(data=resized.long())


def instances(found: list[Tensor], sample: BaseDataElement) -> InstanceData:
    """Return boxes, and masks if any, in pixels of the original image."""
    boxes, scores, labels, *masks = found
    boxes = boxes / boxes.new_tensor(sample.scale_factor).repeat(2)
    result = InstanceData(bboxes=boxes, scores=scores, labels=labels)
    if masks:
        shape = sample.ori_shape
        pasted = [paste_masks(m[None], b[None], shape) for m, b in zip(masks[0], boxes)]
        result.masks = torch.cat([boxes.new_zeros(0, *shape), *pasted]) >= 0.5
    return result


def main() -> None:
    """Evaluate the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', metavar='CONFIG', type=Path)
    parser.add_argument('model', metavar='OUT.onnx', type=Path)
    parser.add_argument(
        '--work-dir', type=Path, default=Path('work_dirs/evaluate_onnx')
    )
    args = parser.parse_args()
    for path in (args.config, args.model):
        if not path.is_file():
            fail(f'{path} is missing')
    cfg = Config.fromfile(args.config)
    runner = Runner(
        model=OnnxModel(args.model),
        work_dir=str(args.work_dir),
        test_dataloader=cfg.test_dataloader,
        test_cfg=cfg.test_cfg,
        test_evaluator=cfg.test_evaluator,
        default_scope=cfg.default_scope,
        experiment_name='evaluate_onnx',
    )
    runner.test()


if __name__ == '__main__':
    main()
