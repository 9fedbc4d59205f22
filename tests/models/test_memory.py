"""Memory of the tensors in a training step."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from crossformer_mm import CrossFormer_S


def peak_of_tensors(model, images):
    """Return the peak of both passes in bytes, without the weights' gradients."""
    activities = [ProfilerActivity.CPU]
    with profile(activities=activities, profile_memory=True) as profiler:
        sum(x.mean() for x in model(images)).backward()
    events = profiler.profiler.kineto_results.events()
    changes = sorted(
        (event.start_ns(), event.nbytes())
        for event in events
        if event.name() == '[memory]'
    )
    sizes = torch.tensor([change for _, change in changes])
    gradients = sum(4 * weight.numel() for weight in model.parameters())
    return sizes.cumsum(0).max().item() - gradients


@pytest.mark.parametrize('lda_mode', ['interval', 'group'])
def test_recomputing_blocks_halves_the_memory(lda_mode):
    images = torch.rand(1, 3, 512, 512)
    plain, recomputed = (
        peak_of_tensors(CrossFormer_S(lda_mode=lda_mode, with_cp=with_cp), images)
        for with_cp in (False, True)
    )
    print(f'{lda_mode}: {plain / 2**20:.0f} and {recomputed / 2**20:.0f} MiB')
    assert recomputed < plain / 2


def test_attention_scores_are_not_all_held_at_once():
    # 1024 tokens in each of 16 groups: the scores of the first stage's long-distance
    # attention would take 192 MiB, and their gradients as much.
    images = torch.rand(1, 3, 512, 512)
    scores = 4 * 3 * 16 * 1024**2
    model = CrossFormer_S(lda_mode='interval', crs_interval=(4, 4, 4, 4), with_cp=True)
    assert peak_of_tensors(model, images) < 2 * scores
