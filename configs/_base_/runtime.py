# What every config needs to find the plugin.
custom_imports = dict(imports=['crossformer_mm'], allow_failed_imports=False)
runner_type = 'CheckedRunner'
# Resumed after an epoch, a training draws the numbers it would have drawn.
custom_hooks = [dict(type='EpochSeedHook')]
