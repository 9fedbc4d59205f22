import pytest
from mmengine.registry import RUNNERS, DefaultScope

from tests.helpers import DETECTOR
from tests.training.helpers import short_config


@pytest.fixture(scope='module')
def short_training(mini_coco, mini_ade20k, tmp_path_factory):
    """Train with a mini config for four iterations; return the runner."""

    def train(path=DETECTOR, hooks=(), **options):
        config = short_config(path, tmp_path_factory.mktemp('run'), **options)
        with DefaultScope.overwrite_default_scope(config.default_scope):
            runner = RUNNERS.build(config)
            for hook in hooks:
                runner.register_hook(hook)
            runner.train()
        return runner

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv('COCO_ROOT', str(mini_coco))
        monkeypatch.setenv('ADE20K_ROOT', str(mini_ade20k))
        yield train
