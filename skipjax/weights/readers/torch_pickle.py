"""The pickle of a PyTorch file, read by the standard library's unpickler with nothing to run.

Globals are looked up in a table of ours and never imported; whatever is not in it becomes an
`Unknown`, which is not called and keeps nothing. What a pickle of N bytes takes is bounded by a
multiple of N, and what it takes in time by the number of its reads.

It is `pickle._Unpickler`, the one in Python, since the one in C cannot be kept from hashing: forty
pairs, each of the one before twice, are 330 bytes, and as the key of a dict 2^40 steps; a key that
is a tuple of 150,000 levels ends the process. No scan of the opcodes sees what will be a key. And
its memo is an array as long as the largest index that the pickle names.
"""

import io
import pickle
import struct
import sys
from collections.abc import Callable
from typing import Any

DAMAGED = "the file is damaged or cut short: download or copy it again"
ALONE = "torch.save(model.state_dict(), path)"
MAX_READS = 2**20  # a tensor takes 65 to 75
# What torch.save writes of data under protocols 2 to 5, but nothing that hashes or calls at will.
_OPCODES = """
    PROTO FRAME STOP POP POP_MARK MARK BINPERSID GLOBAL STACK_GLOBAL NONE NEWTRUE NEWFALSE
    BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8
    BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS EMPTY_SET ADDITEMS FROZENSET
    BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET REDUCE NEWOBJ NEWOBJ_EX BUILD
""".split()
_InPython: Any = pickle._Unpickler  # pyright: ignore
_ERRORS = (AttributeError, IndexError, KeyError, TypeError, UnicodeError, struct.error)


class Unknown:
    """Stands in for a class, function or object that is not read: it takes all and keeps nothing.

    Attributes:
        name: Of the class or function, e.g. "argparse.Namespace".
    """

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name

    def append(self, item: Any) -> None:
        """Drops an item."""

    add = extend = append


class Stated:
    """Stands in for an object of which nothing is known but the attributes that a pickle gives it.

    Attributes:
        name: Of its class, or what made it.
        state: The attributes, whatever the pickle gives; None before, and where it gives none.
    """

    __slots__ = ("name", "state")

    def __init__(self, name: str):
        self.name, self.state = name, None


class Stream(io.BytesIO):
    """Bytes of one or more pickles, of which no more is read than is there."""

    _reads = 0

    def passage(self, size: int) -> Any:
        """What stands for the next `size` bytes, where a pickle has bytes: themselves."""
        return self.read(size)

    def read(self, size: int | None = -1, /) -> bytes:
        """The next `size` bytes, all of them.

        Raises:
            ValueError: If there are less, or this was asked too often.
        """
        self._reads += 1
        if self._reads > MAX_READS:
            raise ValueError(
                f"its pickle has too many parts: save the state dict alone, with {ALONE}"
            )
        assert size is not None
        piece = super().read(min(size, sys.maxsize))
        if len(piece) != size:
            raise ValueError(f"its pickle is cut short; {DAMAGED}")
        return piece


def load(
    stream: Any,
    known: dict[tuple[str, str], Any],
    load_persistent: Callable[[Any], Any],
) -> Any:
    """The object that the next pickle of a stream describes.

    Args:
        stream: A `Stream`, or what can do the same; left after the end of that pickle.
        known: What stands in for globals, by module and name. The functions among them are called
            with whatever the pickle gives; they may take no `*args`, so that a call is soon done.
        load_persistent: Called with a persistent id, of any type, for what it stands for.

    Returns:
        Dicts with strings and ints as keys (entries of other keys are left out), lists, tuples,
        numbers, strings, bytes, what `known` and `load_persistent` give, and `Unknown`s. It may
        be deep, hold itself, or hold one part a million times: walk with care.

    Raises:
        ValueError: If the pickle is damaged, or takes too many steps.
    """
    try:
        return _Unpickler(stream, known, load_persistent).load()
    except (*_ERRORS, pickle.UnpicklingError) as error:
        kind = type(error).__name__
        raise ValueError(
            f"its pickle is damaged, or not one that torch.save writes ({kind}): download or copy "
            f"the file again, or save it again with {ALONE}"
        ) from None


class _Unpickler(_InPython):
    dispatch = {
        code: _InPython.dispatch[code] for name in _OPCODES for code in getattr(pickle, name)
    }
    # What is added to it is dropped, as it would have to be hashed.
    dispatch[pickle.EMPTY_SET[0]] = lambda self: self.append(Unknown("set"))

    def __init__(self, stream: Any, known: dict, load_persistent: Callable[[Any], Any]):
        super().__init__(stream)
        self._known, self.persistent_load = known, load_persistent
        self._passage = stream.passage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._known:
            return self._known[module, name]
        return Unknown(f"{module[:80]}.{name[:80]}")  # or long names add up

    def load_short_binbytes(self) -> None:
        self.append(self._passage(self.read(1)[0]))

    dispatch[pickle.SHORT_BINBYTES[0]] = load_short_binbytes

    def load_binbytes(self) -> None:
        self.append(self._passage(int.from_bytes(self.read(4), "little")))

    dispatch[pickle.BINBYTES[0]] = load_binbytes

    def load_binbytes8(self) -> None:
        self.append(self._passage(int.from_bytes(self.read(8), "little")))

    # For a bytearray the library makes room before it reads one.
    dispatch[pickle.BINBYTES8[0]] = dispatch[pickle.BYTEARRAY8[0]] = load_binbytes8

    def load_frame(self) -> None:
        self.read(8)  # a frame is a hint of how much to read at once

    dispatch[pickle.FRAME[0]] = load_frame

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack[-1]
        if type(function) is not Unknown:
            self.stack[-1] = function(*arguments)

    dispatch[pickle.REDUCE[0]] = dispatch[pickle.NEWOBJ[0]] = load_reduce

    def load_newobj_ex(self) -> None:
        self.stack.pop()
        self.load_reduce()

    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex

    def load_build(self) -> None:
        state = self.stack.pop()  # attributes, such as the _metadata of a module's state dict
        if type(self.stack[-1]) is Stated:
            self.stack[-1].state = state

    dispatch[pickle.BUILD[0]] = load_build

    def load_frozenset(self) -> None:
        self.pop_mark()
        self.append(Unknown("frozenset"))

    dispatch[pickle.FROZENSET[0]] = load_frozenset

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    dispatch[pickle.SETITEMS[0]] = load_setitems

    def _set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is Unknown:
            return
        if type(target) is not dict or len(items) % 2:
            raise TypeError
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Larger ints can be chosen to collide, and tuples to take for ever.
            if type(key) is str or (type(key) is int and abs(key) < 2**31):
                # Strings that are long and equal are compared slowly, so once is enough.
                if key in target:
                    raise ValueError(f"its pickle sets the key {shown(key)} of a dict twice")
                target[key] = value


def shown(value: Any) -> str:
    """A string or number as it appears in a message: on one line, and short."""
    if type(value) is str:
        return repr(value if len(value) <= 80 else value[:80] + "...")
    if type(value) is int:
        return str(value) if abs(value) < 2**64 else f"a number of {value.bit_length()} bits"
    return f"a {type(value).__name__}"
