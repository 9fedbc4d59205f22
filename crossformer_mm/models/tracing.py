"""What differs while torch.compile or an exporter traces the network."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

import torch


def is_compiling() -> bool:
    """Tell whether a compiler or exporter traces."""
    # torch 2.1 cannot tell; compiling needs a newer one.
    return hasattr(torch.compiler, 'is_compiling') and torch.compiler.is_compiling()


def is_recording() -> bool:
    """Tell whether operations are recorded for a runtime or counter of its own.

    It knows the operations that everybody knows.
    """
    return torch.onnx.is_in_onnx_export() or torch.jit.is_tracing()


def once_per_shape(function: Callable) -> Callable:
    """Keep the results of the last shapes; not a compiler's, which are symbols."""
    kept = lru_cache(maxsize=32)(function)

    @wraps(function)
    def call(*args: Any) -> Any:
        return (function if is_compiling() else kept)(*args)

    return call


def one_node(shapes: Callable[..., Any]) -> Callable[[Callable], Callable]:
    """Make a function a single node for torch.compile.

    Traced, its loops over blocks would be unrolled, anew for each size of image.

    Args:
        shapes (Callable): Makes empty results from the same arguments.
    """

    def decorate(function: Callable) -> Callable:
        if not hasattr(torch.library, 'custom_op'):  # before torch 2.4
            return function
        name = f'crossformer_mm::{function.__name__}'
        node = torch.library.custom_op(name, function, mutates_args=())
        node.register_fake(shapes)

        @wraps(function)
        def call(*args: Any) -> Any:
            # Called as it is where it can be: so a FLOP counter sees what is inside.
            single = is_compiling() and not is_recording()
            return (node if single else function)(*args)

        return call

    return decorate
