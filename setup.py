from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
version = {}
exec((ROOT / 'crossformer_mm' / 'version.py').read_text(), version)

setup(
    name='crossformer-mm',
    version=version['__version__'],
    description='CrossFormer and CrossFormer++ backbones for OpenMMLab',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['crossformer_mm*']),
    # Links to configs/, tools/ and what these read, where `mim run` looks for them.
    package_data={
        'crossformer_mm': [
            'py.typed',
            *(f'.mim/**/*.{kind}' for kind in ('py', 'yml', 'txt', 'html')),
        ]
    },
    entry_points={
        'console_scripts': [
            'crossformer-config = crossformer_mm.commands.config:main',
            'crossformer-weights = crossformer_mm.commands.weights:main',
        ]
    },
    python_requires='>=3.10',
    classifiers=[
        f'Programming Language :: Python :: 3.{minor}' for minor in (10, 11, 12, 13)
    ],
    install_requires=['torch>=2.1', 'mmengine>=0.10.4'],
    # mmcv>=2.0.0rc4,<2.2 belongs to the first two, and has to be there before. It is
    # compiled for the very torch beside it; pip builds apart from that torch, and would
    # leave the ops out. `mim install "mmcv<2.2"` has wheels up to torch 2.1, and
    # requirements/compile_mmcv.py compiles it for any.
    extras_require={
        'mmdet': ['mmdet>=3.3'],
        'mmseg': ['mmsegmentation>=1.2', 'ftfy', 'regex'],
        'weights': ['gdown>=5.2'],
        'onnx': ['onnx', 'onnxscript', 'onnxruntime'],
    },
)
