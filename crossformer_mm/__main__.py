"""Run a tool of the package from any folder.

::

    python -m crossformer_mm visualize IMAGE --config CrossFormer_S
    python -m crossformer_mm                # list them
"""

import runpy
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / '.mim' / 'tools'


def main() -> None:
    """Run the tool named by the first argument, or list all tools."""
    tools = {path.stem: path for path in sorted(FOLDER.glob('*.py'))}
    name = sys.argv[1] if len(sys.argv) > 1 else ''
    if name not in tools:
        sys.exit('usage: python -m crossformer_mm TOOL ...\nTOOL: ' + ', '.join(tools))
    sys.argv[:2] = [str(tools[name])]
    sys.path[0] = str(FOLDER)  # the tools import `parts`
    runpy.run_path(sys.argv[0], run_name='__main__')


if __name__ == '__main__':
    main()
