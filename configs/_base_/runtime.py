# Imports the plugin. This must be the first base of a config: with the OneDL forks,
# MMEngine finds mmseg::... only after the plugin is imported. An import statement would
# turn this into one of MMEngine's lazy configs.
__import__('crossformer_mm')

custom_imports = dict(imports=['crossformer_mm'], allow_failed_imports=False)
runner_type = 'CheckedRunner'
# A training resumed after an epoch draws the same random numbers as without a break.
custom_hooks = [dict(type='EpochSeedHook')]
