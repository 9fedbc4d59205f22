"""Any size, any grouping."""

import os
import random

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import reference
from tests.models.test_crossformer import tiny

# CROSSFORMER_EXAMPLES=1000 for a long run.
EXAMPLES = int(os.environ.get('CROSSFORMER_EXAMPLES', 20))
SIDES = st.integers(32, 700)
FOUR = dict(min_size=4, max_size=4)
# The reference goes token by token.
SMALL_ENOUGH = 256**2


@settings(max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES == 20)
@given(
    height=SIDES,
    width=SIDES,
    batch=st.integers(1, 2),
    with_acl=st.booleans(),
    lda_mode=st.sampled_from(['interval', 'group']),
    group_size=st.lists(st.integers(2, 14), **FOUR),
    interval=st.lists(st.integers(1, 8), **FOUR),
)
def test_any_size_and_grouping(
    height, width, batch, with_acl, lda_mode, group_size, interval
):
    model = tiny(
        lda_mode=lda_mode,
        with_acl=with_acl,
        group_size=group_size,
        crs_interval=interval,
    ).eval()
    images = torch.randn(batch, 3, height, width)
    with torch.no_grad():
        outputs = model(images)
        alone = model(images[:1])
    for i, (output, first) in enumerate(zip(outputs, alone)):
        stride = 4 * 2**i
        assert output.shape[2:] == (-(-height // stride), -(-width // stride))
        assert output.isfinite().all()
        torch.testing.assert_close(output[:1], first, rtol=1e-4, atol=1e-4)
    if height * width <= SMALL_ENOUGH:
        with torch.no_grad():
            expected = reference.backbone(model, images, group_size, interval, lda_mode)
        for output, slow in zip(outputs, expected):
            torch.testing.assert_close(output, slow, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('lda_mode', ['interval', 'group'])
def test_new_sizes_do_not_leak(lda_mode):
    """Train at a new size in each of 300 iterations."""
    model = tiny(lda_mode=lda_mode)
    draw = random.Random(0)
    process = psutil.Process()
    resident = []
    for _ in range(300):
        size = draw.randrange(64, 200), draw.randrange(64, 200)
        sum(x.mean() for x in model(torch.randn(1, 3, *size))).backward()
        resident.append(process.memory_info().rss / 2**20)
    warm, late = max(resident[50:150]), max(resident[200:])
    print(f'{lda_mode}: {warm:.0f} MiB after warm-up, {late:.0f} MiB at the end')
    assert late < warm + 20
