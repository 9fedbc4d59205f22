"""Same parameter names and outputs as the published networks."""

import pytest
import torch
from mmengine.registry import MODELS

import crossformer_mm  # noqa: F401  registers the models
from tests import published


@pytest.mark.parametrize('arch', published.CLASSIFIER_SHAPES)
def test_parameter_names_and_shapes(arch):
    model = MODELS.build(dict(type='CrossFormer', arch=arch))
    expected = {
        name: shape
        for name, shape in published.CLASSIFIER_SHAPES[arch].items()
        if name.split('.')[0] not in ('norm', 'head')
    }
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == expected


@pytest.mark.parametrize('case', published.BACKBONE_CASES, ids=published.case_id)
def test_outputs(case, record_property):
    model = MODELS.build(
        dict(
            type='CrossFormer',
            arch=case['arch'],
            group_size=case['group_size'],
            crs_interval=case['interval'],
            lda_mode=case['kind'],
        )
    )
    published.load_weights(model.eval())
    with torch.no_grad():
        outputs = model(published.images(case))
    assert len(outputs) == len(case['outputs'])
    errors = [published.error(*pair) for pair in zip(outputs, case['outputs'])]
    record_property('worst_error', max(errors))
    assert max(errors) < 1e-4


@pytest.mark.parametrize(
    'case',
    [case for case in published.CASES if case['kind'] == 'cls'],
    ids=published.case_id,
)
def test_classifier_logits(case):
    """The default group sizes and intervals are those of classification."""
    backbone = MODELS.build(dict(type='CrossFormer', arch=case['arch'])).eval()
    published.load_weights(backbone)
    shapes = published.CLASSIFIER_SHAPES[case['arch']]
    norm_weight, norm_bias, head_weight, head_bias = (
        published.weight(name, tuple(shapes[name]))
        for name in ('norm.weight', 'norm.bias', 'head.weight', 'head.bias')
    )
    with torch.no_grad():
        tokens = backbone(published.images(case))[-1].flatten(2).transpose(1, 2)
    tokens = torch.nn.functional.layer_norm(
        tokens, norm_weight.shape, norm_weight, norm_bias
    )
    logits = tokens.mean(1) @ head_weight.T + head_bias
    assert published.error(logits, case['outputs'][0]) < 1e-4
