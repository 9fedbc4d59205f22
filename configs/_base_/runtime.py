# What every config needs to find the plugin. It is the first of a config's bases: with
# the OneDL forks MMEngine finds mmseg::... only once the plugin is imported. An import
# statement would make this a config of MMEngine's lazy kind.
__import__('crossformer_mm')

custom_imports = dict(imports=['crossformer_mm'], allow_failed_imports=False)
runner_type = 'CheckedRunner'
# Resumed after an epoch, a training draws the numbers it would have drawn.
custom_hooks = [dict(type='EpochSeedHook')]
