"""Script of test_sizes.py: train for 150 iterations, each at a new size."""

import random
import sys

import psutil
import torch

from tests.models.test_crossformer import tiny

model = tiny(lda_mode=sys.argv[1])
draw = random.Random(0)
process = psutil.Process()
resident = []
for _ in range(150):
    size = draw.randrange(48, 112), draw.randrange(48, 112)
    sum(x.mean() for x in model(torch.randn(1, 3, *size))).backward()
    resident.append(process.memory_info().rss / 2**20)
print(max(resident[30:90]), max(resident[90:]))
