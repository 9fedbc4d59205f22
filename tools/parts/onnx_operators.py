"""How export_onnx.py says in ONNX what torch's exporter has no words for.

Each function of ``TRANSLATIONS`` writes one operator of PyTorch as standard operators
of ONNX. Sizes that depend on the image reach them as numbers that are computed when the
file runs. Operators that are defined here give tensors whose length is known only then:
torch.export takes such a length for a plain symbol, where a formula of the image's
sizes costs it minutes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from onnxscript import opset18 as op
from torch import Tensor

from crossformer_mm.models import position_bias

_offsets = position_bias.offsets


def _new_length() -> int:
    # At least 1, or the exporter would ask in each layer whether there is anything. The
    # operators in the file work with 0 too.
    return torch.library.get_ctx().new_dynamic_size(min=1)


@torch.library.custom_op('crossformer_export::offsets', mutates_args=())
def offsets(rows: int, cols: int) -> Tensor:
    """List the offsets of a group, as ``position_bias.offsets`` does."""
    return _offsets(rows, cols, torch.device('cpu'))


@offsets.register_fake
def _(rows: int, cols: int) -> Tensor:
    return torch.empty(_new_length(), _new_length(), 2, dtype=torch.int64)


@torch.library.custom_op('crossformer_export::top', mutates_args=())
def top(scores: Tensor, most: int) -> Tensor:
    """Return the places of the ``most`` highest scores ``[N]``, the highest first."""
    return scores.topk(min(most, len(scores))).indices


@top.register_fake
def _(scores: Tensor, most: int) -> Tensor:
    return scores.new_empty(_new_length(), dtype=torch.int64)


@torch.library.custom_op('crossformer_export::nms', mutates_args=())
def nms(boxes: Tensor, scores: Tensor, iou: float, most: int) -> Tensor:
    """Suppress boxes ``[N, 4]``; return the places of those that stay.

    Boxes with a score of 0 or less are none.
    """
    from mmcv.ops import nms as mmcv_nms

    (there,) = torch.where(scores > 0)
    return there[mmcv_nms(boxes[there], scores[there], iou)[1][:most]]


@nms.register_fake
def _(boxes: Tensor, scores: Tensor, iou: float, most: int) -> Tensor:
    return scores.new_empty(_new_length(), dtype=torch.int64)


@torch.library.custom_op('crossformer_export::roi_align', mutates_args=())
def roi_align(
    maps: Sequence[Tensor],
    boxes: Tensor,
    levels: Tensor,
    scales: Sequence[float],
    size: int,
    samples: int,
) -> Tensor:
    """Cut boxes ``[N, 4]`` out of the maps of their levels: ``[N, C, size, size]``."""
    from mmcv.ops import roi_align as mmcv_roi_align

    out = boxes.new_empty(len(boxes), maps[0].shape[1], size, size)
    for i, (x, scale) in enumerate(zip(maps, scales)):
        here = levels == i
        rois = torch.nn.functional.pad(boxes[here], (1, 0))
        out[here] = mmcv_roi_align(x, rois, size, scale, samples, 'avg', True)
    return out


@roi_align.register_fake
def _(maps: Any, boxes: Tensor, levels: Any, scales: Any, size: int, _: int) -> Tensor:
    return boxes.new_empty(boxes.shape[0], maps[0].shape[1], size, size)


def _ints(*values: Any) -> Any:
    """Join numbers, known or computed, to a vector."""
    parts = [
        op.Constant(value_ints=[value])
        if isinstance(value, int)
        else op.Reshape(value, op.Constant(value_ints=[-1]))
        for value in values
    ]
    return op.Concat(*parts, axis=0)


def _range(end: Any, start: Any = 0) -> Any:
    return op.Range(*(op.Squeeze(_ints(n)) for n in (start, end, 1)))


def _axes(x: Any, *axes: int) -> Any:
    return op.Unsqueeze(x, op.Constant(value_ints=axes))


def _attention(qkv: Any, table: Any, grouping: Any, heads: int, scale: float) -> Any:
    """``crossformer_mm.ops.plain_attention`` with sizes of the running file."""
    rows, cols, interval = (_ints(number) for number in grouping)
    channels = qkv.shape[3] // 3
    batch = op.Shape(qkv, start=0, end=1)
    size = op.Shape(qkv, start=1, end=3)
    window = op.Mul(_ints(rows, cols), interval)
    windows = op.Div(op.Sub(op.Add(size, window), _ints(1)), window)
    padded = op.Mul(windows, window)
    padding = op.Sub(padded, size)
    down, across = op.Split(windows, num_outputs=2, axis=0)
    x = op.Pad(qkv, _ints(0, 0, 0, 0, 0, padding, 0))
    # [3, B, groups, heads, tokens, width of a head]
    cut = (batch, down, rows, interval, across, cols, interval)
    x = op.Reshape(x, _ints(*cut, 3, heads, channels // heads))
    x = op.Transpose(x, perm=(7, 0, 1, 3, 4, 6, 8, 2, 5, 9))
    tokens = op.Mul(rows, cols)
    x = op.Reshape(x, _ints(3, batch, -1, heads, tokens, channels // heads))
    q, k, v = (op.Gather(x, op.Constant(value_int=i), axis=0) for i in range(3))
    scores = op.MatMul(op.Mul(q, scale), op.Transpose(k, perm=(0, 1, 2, 4, 3)))
    if table is not None:
        down_by, right_by = (
            op.Add(
                op.Sub(_axes(_range(n), 1), _axes(_range(n), 0)), op.Sub(n, _ints(1))
            )
            for n in (rows, cols)
        )
        bias = op.Gather(op.Gather(table, right_by, axis=2), down_by, axis=1)
        bias = op.Transpose(bias, perm=(0, 1, 3, 2, 4))  # [heads, rows, cols, ...]
        scores = op.Add(scores, op.Reshape(bias, _ints(heads, tokens, tokens)))
    beyond = (
        op.GreaterOrEqual(_range(end), n)
        for end, n in zip(*(op.Split(n, num_outputs=2, axis=0) for n in (padded, size)))
    )
    hidden = op.Or(*(_axes(far, axis) for far, axis in zip(beyond, (1, 0))))
    hidden = op.Transpose(op.Reshape(hidden, _ints(*cut[1:])), perm=(0, 2, 3, 5, 1, 4))
    hidden = op.Reshape(hidden, _ints(-1, 1, 1, tokens))
    lowest = op.Constant(value_float=torch.finfo(torch.float32).min)
    mask = op.Where(hidden, lowest, op.Constant(value_float=0.0))
    x = op.MatMul(op.Softmax(op.Add(scores, mask), axis=-1), v)
    # And back to a map.
    groups = (batch, down, interval, across, interval, heads, rows, cols)
    x = op.Reshape(x, _ints(*groups, channels // heads))
    x = op.Transpose(x, perm=(0, 1, 6, 2, 3, 7, 4, 5, 8))
    x = op.Reshape(x, _ints(batch, padded, channels))
    return op.Slice(x, _ints(0, 0), size, _ints(1, 2))


def _offsets_of_group(rows: Any, cols: Any) -> Any:
    down, right = (_range(n, start=op.Sub(_ints(1), _ints(n))) for n in (rows, cols))
    down, right = _axes(down, 1, 2), _axes(right, 0, 2)
    none = op.Mul(op.Mul(down, right), _ints(0))  # as large as both
    return op.Concat(op.Add(down, none), op.Add(right, none), axis=2)


def _top(scores: Any, most: int) -> Any:
    count = op.Min(op.Shape(scores), _ints(most))
    return op.TopK(scores, count, axis=0)[1]


def _nms(boxes: Any, scores: Any, iou: float, most: int) -> Any:
    kept = op.NonMaxSuppression(
        _axes(boxes, 0),
        _axes(scores, 0, 1),
        _ints(most),
        op.Constant(value_floats=[iou]),
        op.Constant(value_floats=[0.0]),
    )
    return op.Gather(kept, op.Constant(value_int=2), axis=1)


def _roi_align(
    maps: Any, boxes: Any, levels: Any, scales: Any, size: int, samples: int
) -> Any:
    shape = _ints(op.Shape(boxes, start=0, end=1), maps[0].shape[1], size, size)
    out = op.Expand(op.Constant(value_float=0.0), shape)
    for i, (x, scale) in enumerate(zip(maps, scales)):
        here = op.NonZero(op.Equal(levels, op.Constant(value_int=i)))  # [1, n]
        place = op.Reshape(here, _ints(-1))
        cut = op.RoiAlign(
            x,
            op.Gather(boxes, place, axis=0),
            op.Mul(place, _ints(0)),  # the image in the batch
            output_height=size,
            output_width=size,
            sampling_ratio=samples,
            spatial_scale=scale,
            coordinate_transformation_mode='half_pixel',
        )
        out = op.ScatterND(out, _axes(place, 1), cut)
    return out


def _adaptive_avg_pool2d(x: Any, output_size: Sequence[int]) -> Any:
    """Average over parts of any size, as a product with a matrix on each side."""
    sides = []
    for axis, parts in zip((2, 3), output_size):
        side = op.Shape(x, start=axis, end=axis + 1)
        part = _axes(_range(parts), 1)
        start = op.Div(op.Mul(part, side), _ints(parts))
        end = op.Mul(op.Add(part, _ints(1)), side)
        end = op.Div(op.Add(end, _ints(parts - 1)), _ints(parts))
        at = _axes(_range(side), 0)
        inside = op.And(op.GreaterOrEqual(at, start), op.Less(at, end))
        share = op.Cast(op.Sub(end, start), to=1)
        sides.append(op.Div(op.Cast(inside, to=1), share))
    return op.MatMul(op.MatMul(sides[0], x), op.Transpose(sides[1], perm=(1, 0)))


TRANSLATIONS = {
    torch.ops.crossformer_mm.attention_forward.default: _attention,
    torch.ops.crossformer_export.offsets.default: _offsets_of_group,
    torch.ops.crossformer_export.top.default: _top,
    torch.ops.crossformer_export.nms.default: _nms,
    torch.ops.crossformer_export.roi_align.default: _roi_align,
    torch.ops.aten._adaptive_avg_pool2d.default: _adaptive_avg_pool2d,
}
