"""The table of the position bias: evaluated once, never stale."""

import copy
import gc
import pickle

import pytest
import torch
from crossformer_mm.models.softmax_attention import spread
from mmengine.model import ExponentialMovingAverage

from crossformer_mm.models import position_bias
from crossformer_mm.models.partition import Grouping
from crossformer_mm.models.position_bias import DynamicPositionBias


@pytest.fixture
def bias():
    torch.manual_seed(0)
    return DynamicPositionBias(32, 2).eval()


@pytest.fixture
def evaluations(monkeypatch):
    """Sizes for which any table was evaluated."""
    sizes = []
    evaluate = DynamicPositionBias.evaluate

    def counted(self, *size):
        sizes.append(size)
        return evaluate(self, *size)

    monkeypatch.setattr(DynamicPositionBias, 'evaluate', counted)
    return sizes


def test_offsets_are_query_minus_key(bias):
    rows, cols = 3, 4
    result = spread(bias(rows, cols), Grouping(rows, cols, 1))
    for query in range(rows * cols):
        for key in range(rows * cols):
            down = query // cols - key // cols
            right = query % cols - key % cols
            x = bias.pos_proj(torch.tensor([float(down), float(right)]))
            expected = bias.pos3(bias.pos2(bias.pos1(x)))
            torch.testing.assert_close(result[:, query, key], expected)


@torch.no_grad()
def test_evaluated_once_per_size_in_evaluation(bias, evaluations):
    for _ in range(3):
        for size in ((3, 4), (4, 3)):
            bias(*size)
    assert evaluations == [(3, 4), (4, 3)]


def test_evaluated_each_time_where_gradients_flow(bias, evaluations):
    bias(3, 4).sum().backward()
    bias.train()
    with torch.no_grad():
        bias(3, 4)
        bias(3, 4)
    assert len(evaluations) == 3
    assert all(param.grad is not None for param in bias.parameters())


def step(bias):
    optimizer = torch.optim.SGD(bias.parameters(), lr=1.0)
    with torch.enable_grad():
        bias(2, 2).square().sum().backward()
    optimizer.step()


def load(bias):
    bias.load_state_dict(DynamicPositionBias(32, 2).state_dict())


def swap_as_ema_does(bias):
    """By `.data`, as MMEngine's EMAHook: torch's version counters stay."""
    other = DynamicPositionBias(32, 2)
    for param, average in zip(bias.parameters(), other.parameters()):
        param.data.copy_(average.data)


def replace(bias):
    bias.pos3[2].weight = torch.nn.Parameter(torch.ones_like(bias.pos3[2].weight))


def change_kind(bias):
    bias.double()


@pytest.mark.parametrize('change', [step, load, swap_as_ema_does, replace, change_kind])
@torch.no_grad()
def test_never_stale(bias, change):
    before = bias(3, 4)
    change(bias)
    after = bias(3, 4)
    assert after.dtype != before.dtype or not torch.equal(after, before)
    assert torch.equal(after, bias.evaluate(3, 4))


@torch.no_grad()
def test_ema_model_follows_its_updates(bias):
    ema = ExponentialMovingAverage(bias, momentum=0.5)
    ema.eval()
    before = ema(3, 4)
    load(bias)
    ema.update_parameters(bias)  # the first copies
    ema.update_parameters(bias)
    assert not torch.equal(ema(3, 4), before)


@torch.no_grad()
def test_copies_and_files_hold_no_tables(bias, evaluations):
    names, attributes = list(bias.state_dict()), set(vars(bias))
    size = len(pickle.dumps(bias))
    expected = bias(3, 4)
    assert list(bias.state_dict()) == names
    assert set(vars(bias)) == attributes
    assert len(pickle.dumps(bias)) == size
    twin = copy.deepcopy(bias)
    assert torch.equal(twin(3, 4), expected)
    load(twin)
    assert not torch.equal(twin(3, 4), expected)
    assert torch.equal(bias(3, 4), expected)
    assert len(evaluations) == 3


@torch.no_grad()
def test_the_memory_is_bounded_and_freed(bias):
    for rows in range(2, 3 * position_bias.TABLES_KEPT):
        bias(rows, 2)
    _, tables = position_bias._kept[bias]
    assert len(tables) == position_bias.TABLES_KEPT
    kept = len(position_bias._kept)
    del bias, tables
    gc.collect()
    assert len(position_bias._kept) <= kept
