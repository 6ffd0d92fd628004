"""How the programs of a test are compiled."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import jax
import pytest

from skipjax import generation


@contextmanager
def in_a_hurry() -> Iterator[None]:
    """In a third of the time, to programs that take twice as long.

    Those of `skipjax.generate` from before are not used meanwhile, nor these later: they may
    differ in the last bit.
    """
    before = jax.config.read("jax_disable_most_optimizations")
    generation.program.clear_cache()
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
        generation.program.clear_cache()


# The same as options of the compiler, for one program alone.
HURRY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
OPTIONS = {"in_a_hurry": HURRY, "as_ever": None}
WAYS = {"in_a_hurry": in_a_hurry, "as_ever": nullcontext}
# For tests that compare bits: quickly, and those of the programs that people run.
EACH_WAY = ["in_a_hurry", pytest.param("as_ever", marks=pytest.mark.slow)]
