"""Script of test_processes.py: train with each value of ``frozen_stages``."""

import torch
from mmengine.registry import RUNNERS
from torch import distributed as dist

from tests.helpers import DETECTOR
from tests.training.helpers import short_config

for frozen_stages in range(5):
    config = short_config(
        DETECTOR,
        f'frozen_{frozen_stages}',
        launcher='pytorch',
        # The second iteration fails if a parameter gets no gradient.
        find_unused_parameters=False,
        model__backbone__frozen_stages=frozen_stages,
    )
    runner = RUNNERS.build(config)
    runner.train()
    assert runner.iter == 2  # four batches over two processes
    ours = torch.cat([weight.flatten() for weight in runner.model.parameters()])
    theirs = ours.clone()
    dist.broadcast(theirs, src=0)
    assert torch.equal(ours, theirs), frozen_stages
    if dist.get_rank() == 0:
        print(f'frozen_stages={frozen_stages}: the same weights in both processes')
dist.destroy_process_group()
