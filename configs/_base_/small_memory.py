# For one GPU of 8 GB. Added to a config CONFIG.py, in a new file beside it:
#
#     _base_ = ['CONFIG.py', '_base_/small_memory.py']
#     model = _base_.small_memory.model
#     train_dataloader = _base_.small_memory.train_dataloader
#     optim_wrapper = _base_.small_memory.optim_wrapper
#     auto_scale_lr = _base_.small_memory.auto_scale_lr
#
# (MMEngine allows no key in two bases, hence the four lines.)
small_memory = dict(
    model=dict(backbone=dict(with_cp=True, lda_mode='group')),
    train_dataloader=dict(batch_size=1),
    optim_wrapper=dict(type='AmpOptimWrapper'),
    auto_scale_lr=dict(enable=True),
)
