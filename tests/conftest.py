"""Strict modes and fixtures that all tests share."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import chex
import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED = Path(os.environ.get("SKIPJAX_SHARED", Path(__file__).parents[2] / "shared"))


def pytest_configure(config):
    """Compiled programs are kept: for tests that compile the same, and for the next run."""
    if not hasattr(config, "cache"):
        return
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")  # JAX does not lock a folder of them
    folder = str(config.cache.mkdir(f"compiled-{worker}"))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder  # or a command would take the user's own
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of reference data made with other libraries."""
    if not SHARED.is_dir():
        pytest.skip(f"no reference data at {SHARED}: set SKIPJAX_SHARED to their folder")
    return SHARED


@pytest.fixture(scope="session")
def goldens(shared: Path) -> Path:
    """Folder of the reference data of ADM."""
    return shared / "goldens" / "adm"


@pytest.fixture
def subtests(subtests):
    """Cases in words, which the processes that share the tests can tell each other."""

    def test(*case, **parts):
        return subtests.test(
            ", ".join([*map(str, case), *(f"{k} = {v}" for k, v in parts.items())])
        )

    return SimpleNamespace(test=test)


@pytest.fixture
def float64():
    """Double precision on the device, for as long as the test runs."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def compiled_in_a_hurry():
    """For tests whose programs take longer to compile than to run."""
    from compiling import in_a_hurry

    with in_a_hurry():
        yield


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A job of 40 pictures of a tiny network."""
    from small_jobs import small

    return small(tmp_path_factory.mktemp("jobs"))


@pytest.fixture(scope="module")
def finished(job, tmp_path_factory) -> Path:
    """The folder of that job, drawn."""
    from small_jobs import run

    out = tmp_path_factory.mktemp("finished") / "run"
    run(job, out)
    return out


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """An empty folder to run the command in, which leaves JAX's settings and caches alone."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "unused"))
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(autouse=True)
def _fresh_trace_counts():
    chex.clear_trace_counter()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB."""
    at = tmp_path / "disk"
    at.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", at]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield at
    subprocess.run(["umount", at], check=True)
