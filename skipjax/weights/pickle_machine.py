"""A machine for the few pickle opcodes that a state dict takes, which imports and calls nothing.

It knows the opcodes that torch.save writes for dicts, lists, tuples, numbers, strings and
tensors, under pickle protocols 2 to 5. Globals are looked up in a table of stand-ins instead of
being imported, and every count, size and depth is bounded, so that a hostile pickle ends in a
ValueError soon. The opcodes are explained in the source of Python's pickletools.
"""

import dataclasses
import struct
from collections.abc import Callable, Mapping
from typing import Any

# A tensor takes some sixty steps, and makes six to nine containers.
_MAX_STEPS = 1_000_000
_MAX_CONTAINERS = 200_000
_MAX_DEPTH = 64
_REFUSED = (
    "which is refused, because a state dict of plain tensors does not need it: where the file is "
    "trusted, load it with torch and save it again with torch.save(model.state_dict(), path)"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Function:
    """What stands in for a function of the pickle.

    Attributes:
        call: Called with the arguments that the pickle gives, of any type whatsoever.
        arguments: How many they may be.
    """

    call: Callable[..., Any]
    arguments: tuple[int, ...]


def run(
    pickle: bytes,
    find: Mapping[tuple[str, str], Any],
    load: Callable[[Any], Any],
    leaves: tuple[type, ...],
) -> Any:
    """The object that a pickle describes.

    Args:
        pickle: All of it.
        find: What stands in for the globals, by module and name; `Function`s may be called.
        load: Called with a persistent id, of any type whatsoever, for what it stands for.
        leaves: Types that the object may hold besides dicts, lists, tuples, numbers and strings.

    Returns:
        The object, not deeper than 64 containers and safe to walk through. Dicts have strings
        and ints as keys; ordered dicts come as plain ones, without their attributes.

    Raises:
        ValueError: If the pickle is damaged, does anything else, or describes more.
    """
    machine = _Machine(pickle, find, load)
    for _ in range(_MAX_STEPS):
        opcode = pickle[machine.at : machine.at + 1]
        machine.at += 1
        if opcode == b".":
            break
        step = _OPCODES.get(opcode)
        if step is None:
            use = f"uses the opcode {opcode!r}, {_REFUSED}" if opcode else "is cut short"
            raise ValueError(f"its pickle {use}")
        step(machine)
    else:
        raise ValueError(f"its pickle takes more than {_MAX_STEPS:,} steps: save it in parts")
    if machine.at != len(pickle):
        raise ValueError(f"its pickle goes on for {len(pickle) - machine.at} bytes after its end")
    if machine.marks or len(machine.stack) != 1:
        raise ValueError("its pickle ends with something other than one object")
    _check(machine.stack[0], leaves)
    return machine.stack[0]


def shown(value: Any) -> str:
    """A string or number as it appears in a message: on one line, and short."""
    if type(value) is str:
        return repr(value if len(value) <= 80 else value[:80] + "...")
    if type(value) is int:
        return str(value) if abs(value) < 2**64 else f"a number of {value.bit_length()} bits"
    return f"a {type(value).__name__}"


class _Machine:
    """Stack, memo and place of a pickle that is being read."""

    def __init__(self, pickle: bytes, find: Mapping[tuple[str, str], Any], load: Callable):
        self.pickle, self.at = pickle, 0
        self.find, self.load = find, load
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: list[Any] = []
        self.made = 0

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.pickle):
            raise ValueError("its pickle is cut short")
        piece = self.pickle[self.at : end]
        self.at = end
        return piece

    def number(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def pop(self) -> Any:
        if not self.stack:
            raise ValueError("its pickle takes from an empty stack")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        if not self.stack or type(self.stack[-1]) is not kind:
            raise ValueError(f"its pickle needs a {kind.__name__} where there is none")
        return self.stack[-1]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_new(self, value: Any) -> None:
        self.made += 1
        if self.made > _MAX_CONTAINERS:
            raise ValueError(f"its pickle makes more than {_MAX_CONTAINERS:,} containers")
        self.stack.append(value)

    def protocol(self) -> None:
        version = self.number(1)
        if self.at != 2 or not 2 <= version <= 5:
            raise ValueError(f"its pickle is of protocol {version}; accepted are 2 to 5")

    def frame(self) -> None:
        if self.number(8) > len(self.pickle) - self.at:
            raise ValueError("its pickle is cut short")

    def mark(self) -> None:
        # A container opens one at most, and a tensor two.
        if len(self.marks) > 2 * _MAX_DEPTH:
            raise ValueError(f"its pickle nests deeper than {_MAX_DEPTH} containers")
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        if not self.marks:
            raise ValueError("its pickle goes back to a mark where there is none")
        items, self.stack = self.stack, self.marks.pop()
        return items

    def text(self, size: int) -> None:
        try:
            self.push(self.take(size).decode())
        except UnicodeDecodeError:
            raise ValueError("its pickle has a string that is not UTF-8") from None

    def tuple_of(self, size: int) -> None:
        if len(self.stack) < size:
            raise ValueError("its pickle takes from an empty stack")
        items = tuple(self.stack[-size:])
        del self.stack[-size:]
        self.push_new(items)

    def append(self, items: list[Any]) -> None:
        self.top(list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.top(dict)
        if len(items) % 2:
            raise ValueError("its pickle has a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Larger ints can be chosen to collide in the dict, and tuples to exhaust the stack.
            if type(key) is not str and not (type(key) is int and abs(key) < 2**31):
                raise ValueError(f"its pickle has a {type(key).__name__} as the key of a dict")
            if key in target:
                raise ValueError(f"its pickle sets the key {shown(key)} of a dict twice")
            target[key] = value

    def put(self, index: int) -> None:
        if index != len(self.memo) or not self.stack:
            raise ValueError("its pickle memorises in another order than torch.save does")
        self.memo.append(self.stack[-1])

    def get(self, index: int) -> None:
        if index >= len(self.memo):
            raise ValueError("its pickle recalls what it did not memorise")
        self.push(self.memo[index])

    def line(self) -> str:
        end = self.pickle.find(b"\n", self.at, self.at + 256)
        if end < 0:
            raise ValueError("its pickle has the name of a global that does not end")
        self.text(end - self.at)
        self.at = end + 1
        return self.pop()

    def lookup(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise ValueError("its pickle asks for a global whose name is not a string")
        if (module, name) not in self.find:
            raise ValueError(f"its pickle asks for {shown(f'{module}.{name}')}, {_REFUSED}")
        self.push(self.find[module, name])

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if type(function) is not Function or type(arguments) is not tuple:
            raise ValueError("its pickle calls something other than a function")
        if len(arguments) not in function.arguments:
            raise ValueError(f"its pickle calls a function with {len(arguments)} arguments")
        self.push_new(function.call(*arguments))

    def build(self) -> None:
        # Attributes of ordered dicts, such as the _metadata of a module's state dict.
        state = self.pop()
        self.top(dict)
        if type(state) is not dict:
            raise ValueError(f"its pickle gives a {type(state).__name__} as attributes of a dict")


def _check(result: Any, leaves: tuple[type, ...]) -> None:
    """Refuses what is not data, or not safe to walk: circles, great depth, repeated sharing."""
    containers = {dict, list, tuple}
    plain = {type(None), bool, int, float, str, *containers}
    # Depth and number of parts of each container that is done, by id; every one is alive.
    done: dict[int, tuple[int, int]] = {}
    entered: set[int] = set()
    waiting = [(result,)]
    while waiting:
        node = waiting[-1]
        if id(node) in done:
            waiting.pop()
            continue
        children = tuple(node.values()) if type(node) is dict else node
        inner = [child for child in children if type(child) in containers]
        if id(node) not in entered:
            entered.add(id(node))
            if any(id(child) in entered and id(child) not in done for child in inner):
                raise ValueError("its pickle has a container inside of itself")
            for child in children:
                if type(child) not in plain and not isinstance(child, leaves):
                    raise ValueError(f"its pickle holds a {type(child).__name__} as a value")
            waiting.extend(child for child in inner if id(child) not in done)
            continue
        sizes = [done[id(child)] for child in inner]
        depth = 1 + max((depth for depth, _ in sizes), default=0)
        parts = len(children) + sum(parts for _, parts in sizes)
        if depth > _MAX_DEPTH + 1:
            raise ValueError(f"its pickle nests deeper than {_MAX_DEPTH} containers")
        if parts > _MAX_STEPS:
            raise ValueError(f"its pickle repeats what it holds to more than {_MAX_STEPS:,} parts")
        done[id(node)] = depth, parts
        waiting.pop()


_OPCODES: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": _Machine.protocol,
    b"\x95": _Machine.frame,
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m.number(1)),
    b"M": lambda m: m.push(m.number(2)),
    b"J": lambda m: m.push(m.number(4, signed=True)),
    b"\x8a": lambda m: m.push(m.number(m.number(1), signed=True)),
    b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    b"\x8c": lambda m: m.text(m.number(1)),
    b"X": lambda m: m.text(m.number(4)),
    b"\x8d": lambda m: m.text(m.number(8)),
    b"(": _Machine.mark,
    b")": lambda m: m.push_new(()),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"t": lambda m: m.push_new(tuple(m.since_mark())),
    b"]": lambda m: m.push_new([]),
    b"a": lambda m: m.append([m.pop()]),
    b"e": lambda m: m.append(m.since_mark()),
    b"}": lambda m: m.push_new({}),
    b"s": lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    b"u": lambda m: m.set_items(m.since_mark()),
    b"q": lambda m: m.put(m.number(1)),
    b"r": lambda m: m.put(m.number(4)),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"h": lambda m: m.get(m.number(1)),
    b"j": lambda m: m.get(m.number(4)),
    b"c": lambda m: m.lookup(m.line(), m.line()),
    b"\x93": lambda m: m.lookup(*[m.pop(), m.pop()][::-1]),
    b"R": _Machine.reduce,
    b"b": _Machine.build,
    b"Q": lambda m: m.push(m.load(m.pop())),
}
