"""CLIP's tokenizer: texts to numbers, by byte pair encoding (Radford et al. 2021, section 2.4).

It splits texts as transformers' CLIPTokenizer does, by the same library, `tokenizers`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from skipjax.conditioners.clip import tokenizer_files

_PATTERN = (  # of what is split into tokens by itself
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


class Added(NamedTuple):
    """A token that is found in a text before the rest is split.

    Attributes:
        content: What it looks like.
        normalized: Whether it is looked for in the text in lower case.
        special: Whether it is no part of the language: the beginning, the end.
        lstrip: Whether it takes the space before it.
        rstrip: Whether it takes the space behind it.
        single_word: Whether it is only found between words.
    """

    content: str
    normalized: bool = True
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


@dataclass(frozen=True, eq=False, repr=False)
class Tokenizer:
    """A vocabulary, and how texts are split into it. Static: equal to those of equal content.

    Args:
        vocabulary: Numbers of the tokens.
        merges: Pairs of tokens that become one, first of all the first.
        added: Tokens that are found before the rest is split, those that begin, end and pad texts
            among them. Which have no number yet get the next ones.
        start: The token that begins a text.
        end: The token that ends one.
        pad: The token behind the end.
        unknown: The token for what no other stands for.
        length: Tokens of the longest text, beginning and end included; None where the encoder
            says it.
    """

    vocabulary: Mapping[str, int]
    merges: Sequence[tuple[str, str]] = field(repr=False)
    added: tuple[Added, ...] = ()
    start: str = "<|startoftext|>"
    end: str = "<|endoftext|>"
    pad: str = "<|endoftext|>"
    unknown: str = "<|endoftext|>"
    length: int | None = 77

    def __post_init__(self):
        named = {token.content for token in self.added}
        special = dict.fromkeys((self.start, self.end, self.unknown, self.pad))
        more = [Added(token, False, True) for token in special if token not in named]
        object.__setattr__(self, "added", (*self.added, *more))
        ordered = sorted(self.added, key=lambda token: self.numbers[token.content])
        object.__setattr__(self, "added", tuple(ordered))

    @classmethod
    def read(cls, folder: str | Path) -> "Tokenizer":
        """The tokenizer of a folder that transformers wrote: of tokenizer.json, or of vocab.json
        and merges.txt; with tokenizer_config.json, special_tokens_map.json and added_tokens.json,
        where there are any.

        Raises:
            ValueError: If a file is missing or cannot be read; says which.
        """
        fields = tokenizer_files.read(Path(folder))
        added = tuple(Added(**token) for token in fields.pop("added"))
        return cls(**fields, added=added)

    def write(self, folder: str | Path) -> None:
        """Writes vocab.json, merges.txt, tokenizer_config.json and special_tokens_map.json, which
        `read` and transformers read; the folder is made where there is none.
        """
        tokenizer_files.write(Path(folder), self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Tokenizer({len(self)} tokens, pads with {self.pad!r}, {self.digest[:8]})"

    def __len__(self) -> int:
        """Number of tokens, those that were added included."""
        return max(self.numbers.values(), default=-1) + 1

    @cached_property
    def digest(self) -> str:
        """The hash of the content."""
        content = {name: getattr(self, name) for name in self.__dataclass_fields__}
        content |= {"merges": list(map(list, self.merges))}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Of all tokens, those that were added included."""
        numbers = dict(self.vocabulary)
        for token in self.added:
            if token.content not in numbers:
                numbers[token.content] = max(numbers.values(), default=-1) + 1
        return numbers

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Tokens that were added to the language, as textual inversion does."""
        return tuple(token.content for token in self.added if not token.special)

    @property
    def frame(self) -> tuple[int, int, int]:
        """Numbers of the tokens that begin, end and pad a text."""
        start, end, pad = (self.numbers[token] for token in (self.start, self.end, self.pad))
        return start, end, pad

    def split(self, text: str) -> tuple[list[int], list[int]]:
        """The numbers of a text's tokens, without beginning and end, and where in the text each
        begins. A token of several vectors is as many numbers.

        Raises:
            ValueError: If the package tokenizers is not installed.
        """
        found = self._backend.encode(text, add_special_tokens=False)
        ids: list[int] = []
        starts: list[int] = []
        for number, (start, _) in zip(found.ids, found.offsets, strict=True):
            ids += self._several.get(number, [number])
            starts += [start] * (len(ids) - len(starts))
        return ids, starts

    def with_token(self, token: str, vectors: int = 1) -> "Tokenizer":
        """The same that knows a further token, of so many vectors: further tokens, which are
        called as diffusers calls them, `token_1`, `token_2`, ...

        Raises:
            ValueError: If it is a token already, or nothing that can be found in a text.
        """
        if not token.strip() or token != token.strip():
            raise ValueError(f"token is {token!r}: it must be a word such as '<cat-toy>'")
        names = [token, *(f"{token}_{i}" for i in range(1, vectors))]
        for name in names:
            if name in self.numbers:
                raise ValueError(f"{name!r} is a token already: choose another word")
        return replace(self, added=(*self.added, *map(Added, names)))

    @cached_property
    def _several(self) -> dict[int, list[int]]:
        """The numbers that stand for one token of several vectors."""
        found = {}
        for token in self.words:
            names = [token]
            while (name := f"{token}_{len(names)}") in self.words:
                names.append(name)
            if len(names) > 1:
                found[self.numbers[token]] = [self.numbers[name] for name in names]
        return found

    @cached_property
    def _backend(self) -> Any:
        try:
            import tokenizers
        except ImportError:
            raise ValueError(
                "the package tokenizers is not installed, which splits prompts into tokens: "
                "pip install 'skipjax[text]'"
            ) from None
        from tokenizers import models, normalizers, pre_tokenizers

        model = models.BPE(
            vocab=dict(self.vocabulary),
            merges=list(self.merges),
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            fuse_unk=False,
            unk_token=self.unknown,
        )
        backend: Any = tokenizers.Tokenizer(model)
        space = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
        backend.normalizer = normalizers.Sequence(
            [normalizers.NFC(), space, normalizers.Lowercase()]
        )
        pieces = pre_tokenizers.Split(tokenizers.Regex(_PATTERN), "removed", invert=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pieces, pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        for token in self.added:
            known = tokenizers.AddedToken(**token._asdict())
            (backend.add_special_tokens if token.special else backend.add_tokens)([known])
        return backend
