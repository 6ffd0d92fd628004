"""Compiled programs that are kept where all workers find them."""

from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

LEAST = 0.2  # seconds that a program takes to compile, or it is not worth keeping


def keep_compiled(at: str | Path) -> None:
    """Keeps compiled programs in a folder, from where every later process takes them that runs the
    same job on devices of the same kind: it then traces, and compiles nothing.

    Args:
        at: The folder, on a disk that all workers read, or a URL such as gs://bucket/compiled.
    """
    jax.config.update("jax_compilation_cache_dir", str(at))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST)
    compilation_cache.reset_cache()  # or one that is open already stays in use
