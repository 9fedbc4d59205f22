import subprocess
import sys

import pytest
from mmengine.registry import MODELS, DefaultScope, Registry

import crossformer_mm
from crossformer_mm.models.archs import ARCHS

VARIANTS = {
    'CrossFormer_T': 'T',
    'CrossFormer_S': 'S',
    'CrossFormer_B': 'B',
    'CrossFormer_L': 'L',
    'CrossFormerPP_S': 'ppS',
    'CrossFormerPP_B': 'ppB',
    'CrossFormerPP_L': 'ppL',
    'CrossFormerPP_H': 'ppH',
    'CrossFormer_S2': 'ppS',
    'CrossFormer_B2': 'ppB',
}


@pytest.mark.parametrize('name, arch', VARIANTS.items())
def test_variant_is_its_arch(name, arch):
    model = MODELS.build(dict(type=name))
    settings = ARCHS[arch]
    assert [len(stage.blocks) for stage in model.layers] == list(settings['depths'])
    assert model.num_features[0] == settings['embed_dims']
    block = model.layers[2].blocks[1]
    group = settings['group_size'][2]
    modes = {'interval': (50, 60), 'group': (group, group)}
    interval = settings['crs_interval'][2]
    grouping = block.grouping(50 * interval, 60 * interval)
    assert grouping == (*modes[settings['lda_mode']], interval)
    has_acl = any('ex_conv' in name for name, _ in model.named_parameters())
    assert has_acl == settings['with_acl']


def test_original_backbone_dict_builds_unchanged():
    model = MODELS.build(
        dict(
            type='CrossFormer_S',
            group_size=[7, 7, 7, 7],
            crs_interval=[8, 4, 2, 1],
            adaptive_interval=False,
            init_cfg=dict(type='Pretrained', checkpoint='backbone-crossformer-s.pth'),
        )
    )
    assert isinstance(model, crossformer_mm.CrossFormer_S)


def test_lookup_by_prefix_and_from_child_scopes():
    child = Registry('model', parent=MODELS, scope='some_codebase')
    with DefaultScope.overwrite_default_scope('some_codebase'):
        for name in ('CrossFormer_S', 'crossformer_mm.CrossFormer_S'):
            assert child.get(name) is crossformer_mm.CrossFormer_S


def test_importing_twice_registers_once():
    """Also if a notebook deletes the modules and imports them again."""
    code = (
        'import sys\n'
        'from mmengine.registry import MODELS, DefaultScope\n'
        'import crossformer_mm\n'
        'before = set(MODELS.module_dict)\n'
        'for name in [k for k in sys.modules if k.startswith("crossformer_mm")]:\n'
        '    del sys.modules[name]\n'
        'with DefaultScope.overwrite_default_scope("mmdet"):\n'
        '    import crossformer_mm as anew\n'
        'assert set(MODELS.module_dict) == before\n'
        'assert MODELS.get("CrossFormer_S") is anew.CrossFormer_S\n'
    )  # in a separate process, to keep the registered classes of this one
    subprocess.run([sys.executable, '-c', code], check=True)


def test_import_needs_torch_and_mmengine_only():
    code = (
        'import sys\n'
        'for name in ("mmcv", "mmdet", "mmseg", "mmpretrain", "torchvision"):\n'
        '    sys.modules[name] = None  # an import of it raises ImportError\n'
        'import crossformer_mm\n'
    )
    subprocess.run([sys.executable, '-c', code], check=True)
