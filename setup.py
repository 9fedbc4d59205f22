import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
version = {}
exec((ROOT / 'crossformer_mm' / 'version.py').read_text(), version)


class BuildWithTools(build_py):
    """Copies configs and tools to .mim, where `mim run` looks for them.

    In the repository these are links, for editable installs. Git on Windows checks them
    out as text files.
    """

    def run(self):
        super().run()
        if self.editable_mode:
            return
        folder = Path(self.build_lib, 'crossformer_mm', '.mim')
        shutil.rmtree(folder, ignore_errors=True)  # from an earlier build
        for name in ('configs', 'tools', 'requirements'):
            ignore = shutil.ignore_patterns('__pycache__')
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)
        shutil.copy(ROOT / 'model-index.yml', folder)


setup(
    name='crossformer-mm',
    version=version['__version__'],
    description='CrossFormer and CrossFormer++ backbones for OpenMMLab',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    project_urls={
        'CrossFormer': 'https://arxiv.org/abs/2108.00154',
        'CrossFormer++': 'https://arxiv.org/abs/2303.06908',
    },
    packages=find_packages(include=['crossformer_mm*']),
    package_data={'crossformer_mm': ['py.typed', 'checkpoint/published.csv']},
    cmdclass={'build_py': BuildWithTools},
    entry_points={
        'console_scripts': [
            'crossformer-config = crossformer_mm.commands.config:main',
            'crossformer-weights = crossformer_mm.commands.weights:main',
        ]
    },
    python_requires='>=3.10',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Operating System :: OS Independent',
        'Topic :: Scientific/Engineering :: Image Recognition',
        'Typing :: Typed',
        *(f'Programming Language :: Python :: 3.{n}' for n in (10, 11, 12, 13)),
    ],
    install_requires=['torch>=2.1', 'mmengine>=0.10.4'],
    # mmdet and mmseg need mmcv>=2.0.0rc4,<2.2, which must be installed before: it is
    # compiled for the installed torch, and pip's isolated build would omit the ops.
    # `mim install "mmcv<2.2"` has wheels up to torch 2.1; requirements/compile_mmcv.py
    # compiles it for any torch.
    extras_require={
        'mmdet': ['mmdet>=3.3'],
        'mmseg': ['mmsegmentation>=1.2', 'ftfy', 'regex'],
        'weights': ['gdown>=5.2'],
        'onnx': ['onnx', 'onnxscript', 'onnxruntime'],
    },
)
