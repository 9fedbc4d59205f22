"""Random image sizes and groupings."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import reference
from tests.helpers import ROOT
from tests.models.test_crossformer import tiny

# CROSSFORMER_EXAMPLES=1000 for a long run.
EXAMPLES = int(os.environ.get('CROSSFORMER_EXAMPLES', 20))
SIDES = st.integers(32, 700)
FOUR = dict(min_size=4, max_size=4)
ARCHS = st.fixed_dictionaries(
    dict(
        embed_dims=st.sampled_from([32, 48, 64]),
        depths=st.lists(st.integers(1, 3), **FOUR),
        num_heads=st.sampled_from([[1, 2, 4, 8], [2, 4, 8, 16]]),
    )
)
# The reference is slow: it works token by token.
SMALL_ENOUGH = 256**2


@settings(max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES == 20)
@given(
    height=SIDES,
    width=SIDES,
    batch=st.integers(1, 2),
    arch=ARCHS,
    with_acl=st.booleans(),
    lda_mode=st.sampled_from(['interval', 'group']),
    group_size=st.lists(st.integers(2, 14), **FOUR),
    interval=st.lists(st.integers(1, 8), **FOUR),
)
def test_any_size_and_grouping(
    height, width, batch, arch, with_acl, lda_mode, group_size, interval
):
    model = tiny(
        arch,
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


@pytest.mark.slow
@pytest.mark.parametrize('lda_mode', ['interval', 'group'])
def test_new_sizes_do_not_leak(lda_mode):
    # oneDNN caches code for the last 1024 convolution shapes: tens of MiB that would
    # hide a small leak.
    variables = dict(ONEDNN_PRIMITIVE_CACHE_CAPACITY='16', PYTHONPATH=str(ROOT))
    done = subprocess.run(
        [sys.executable, ROOT / 'tests' / 'models' / 'new_sizes.py', lda_mode],
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    warm, late = map(float, done.stdout.split())
    print(f'{lda_mode}: {warm:.0f} MiB after warm-up, {late:.0f} MiB at the end')
    assert late < 1.05 * warm
