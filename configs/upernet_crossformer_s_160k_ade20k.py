_base_ = [
    '_base_/runtime.py',
    '_base_/upernet_crossformer_s.py',
    '_base_/ade20k.py',
    '_base_/schedule_upernet_160k.py',
    'mmseg::_base_/default_runtime.py',
]

train_dataloader = dict(batch_size=2)
