# CrossFormer-T from scratch on the data set of tools/make_mini_digits.py, in minutes on
# a CPU.
_base_ = 'crossformer_t_300e_in1k.py'

model = dict(
    backbone=dict(drop_path_rate=0.0),
    head=dict(num_classes=10, topk=(1,)),
    # No Mixup or CutMix: a mixture of two digits can look like another digit.
    train_cfg=dict(_delete_=True),
)
data_root = '{{$DIGITS_ROOT:data/mini_digits}}'
data_preprocessor = dict(num_classes=10)
dataset = dict(
    _delete_=True,
    type='CustomDataset',
    data_root=data_root,
    pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
)
in_process = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(
    batch_size=32, **in_process, dataset=dict(**dataset, data_prefix='train')
)
val_dataloader = dict(
    batch_size=64, **in_process, dataset=dict(**dataset, data_prefix='val')
)
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=6, val_interval=2)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=0,
        end=6,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(max_keep_ckpts=2),
    visualization=dict(enable=True, interval=50),
)
randomness = dict(seed=0)
