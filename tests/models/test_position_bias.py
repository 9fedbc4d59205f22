import torch

from crossformer_mm.models.partition import Grouping
from crossformer_mm.models.position_bias import DynamicPositionBias
from crossformer_mm.ops.blockwise_attention import expand_bias


def test_offsets_are_query_minus_key():
    torch.manual_seed(0)
    bias = DynamicPositionBias(32, 2)
    rows, cols = 3, 4
    result = expand_bias(bias(rows, cols), Grouping(rows, cols, 1))
    for query in range(rows * cols):
        for key in range(rows * cols):
            down = query // cols - key // cols
            right = query % cols - key % cols
            x = bias.pos_proj(torch.tensor([float(down), float(right)]))
            expected = bias.pos3(bias.pos2(bias.pos1(x)))
            torch.testing.assert_close(result[:, query, key], expected)
