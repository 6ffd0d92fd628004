"""Mutates PyTorch's files at random and reads them: a ValueError, or what can be true of the file.

Files are of both formats, the zip archive and that of torch before 1.6.

python tests/fuzz_torch_file.py --files 20000 --seed 0
"""

import argparse
import collections
import dataclasses
import math
import pickletools
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pickle_parts
import torch_writer as writer

from skipjax.weights.readers import state_dict

# What Python tells its audit hooks of, and reading a file must never cause.
_FORBIDDEN = ("os.", "subprocess.", "exec", "compile", "import", "pickle.", "ctypes.", "socket.")
_NUMBERS = [0, 1, 2, 63, 64, 127, 128, 255, 2**16, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64, -1]
_GLOBALS = [("os", "system"), ("builtins", "eval"), ("builtins", "getattr"), ("torch", "Size")]
_GLOBALS += [("collections", "OrderedDict"), ("torch", "FloatStorage")]
_GLOBALS += [("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter")]


@dataclasses.dataclass
class Counts:
    """What became of the files; the worst seconds, memory over size, and growth in bytes."""

    outcomes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    slowest: float = 0.0
    memory: float = 0.0
    growth: int = 0

    def __str__(self) -> str:
        outcomes = ", ".join(f"{n} {outcome}" for outcome, n in self.outcomes.most_common())
        memory = f"memory up to {self.memory:.0f} times the file (of 4 KiB or more)"
        grown = f"the process grew by {self.growth / 2**20:.1f} MiB"
        return f"{outcomes}; slowest {self.slowest:.3f} s, {memory}, {grown}"


class _Audit:
    """Collects what the interpreter does while a file is being read."""

    def __init__(self):
        self.active, self.events = False, []
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        if self.active and (event.startswith(_FORBIDDEN) or event == "open"):
            self.events.append((event, str(arguments[0])))


def _bases():
    """Objects to begin from, and the protocols they are saved with."""

    def values(*shape, dtype="float32"):
        return np.arange(math.prod(shape)).reshape(shape).astype(writer.dtype(dtype))

    flat = {f"layer.{i}.weight": writer.tensor(values(3, 4) + i) for i in range(4)}
    yield flat, 2
    yield {name: writer.tensor(values(5, dtype=name)) for name in writer.STORAGES}, 2
    yield {name: writer.tensor(values(4, dtype=name)) for name in writer.UNTYPED}, 4
    storage = writer.Storage(values(40))
    views = collections.OrderedDict(a=writer.Tensor(storage, (5, 4), (8, 2), 1))
    views["b"] = writer.Tensor(storage, (4, 5), (1, 8))
    views["c"] = writer.Parameter(writer.tensor(values(2, 3).T))
    views["d"] = writer.tensor(values())
    views._metadata = collections.OrderedDict({"": {"version": 1}})  # pyright: ignore
    yield views, 2
    more = {"loss": np.float64(3), "args": argparse.Namespace(lr=1), "set": {1}}
    optimizer = {"state": {0: {"step": writer.tensor(values())}}, "param_groups": [{"lr": 1}]}
    yield {"epoch": 3, "lr": [1e-3, (2, None)], "model": views, "ema": views, "opt": optimizer}, 5
    yield more | {"state_dict": views}, 2


def _bytes_anywhere(rng: random.Random, content: bytes) -> bytes:
    """Damage of the kind that disks, networks and editors do, or worse."""
    at = rng.randrange(len(content) + 1)
    size = rng.choice([1, 1, 2, 4, 8, 16, 64, 256])
    other = rng.randrange(len(content) + 1)
    noise = rng.choice([rng.randbytes(size), bytes(size), b"\xff" * size])
    change = rng.randrange(8)
    if change < 2:
        flipped = bytearray(content)
        for _ in range(rng.choice([1, 1, 2, 8])):
            flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    if change == 2:
        return content[:at] + noise + content[at + size :]
    if change == 3:
        return content[:at] + noise + content[at:]
    if change == 4:
        return content[:at] + content[at + size :]
    if change == 5:
        return content[:at]
    if change == 6:
        return content[:at] + content[other : other + size] + content[at + size :]
    width = rng.choice([2, 4, 8])
    number = (rng.choice(_NUMBERS) % 256**width).to_bytes(width, "little")
    return content[:at] + number + content[at + len(number) :]


def _records(rng: random.Random, entries: list[writer.Entry]) -> None:
    """Records that lie, with checksums that are right again."""
    entry, other = rng.choice(entries), rng.choice(entries)
    change = rng.randrange(8)
    if change == 0:
        entry.data, other.data = other.data, entry.data
    elif change == 1:
        entry.name, other.name = other.name, entry.name
    elif change == 2:
        entry.data = _bytes_anywhere(rng, entry.data or b"x")
    elif change == 3:
        field = rng.choice(["method", "flags", "crc", "size", "packed", "start", "local_extra"])
        most = 2**16 - 1 if field in ("method", "flags", "local_extra") else 2**32 - 1
        setattr(entry, field, rng.choice([rng.randrange(most), rng.choice(_NUMBERS) & most]))
    elif change == 4:
        entries.remove(entry)
    elif change == 5:
        entries.append(dataclasses.replace(entry, name=rng.choice([entry.name, other.name + "0"])))
    elif change == 6:
        rng.shuffle(entries)
    else:
        entry.size = entry.packed = 2**32 - 1
        entry.extra = struct.pack("<2H2Q", 1, 16, *[abs(rng.choice(_NUMBERS)) % 2**64] * 2)


def _opcodes(code: bytes) -> list[bytes]:
    places = [place or 0 for _, _, place in pickletools.genops(code)] + [len(code)]
    return [code[a:b] for a, b in zip(places, places[1:], strict=False)]


def _opcode(rng: random.Random) -> bytes:
    """Any opcode there is, with something for an argument."""
    change = rng.randrange(6)
    if change == 0:
        return pickle_parts.name(*rng.choice(_GLOBALS))
    if change == 1:
        return pickle_parts.number(rng.choice([*_NUMBERS, 0.5, float("nan"), True]))
    if change == 2:
        return pickle_parts.text(rng.choice(["0", "storage", "cpu", "a", "../0", "os", "system"]))
    if change == 3:
        return rng.choice(
            [pickle_parts.view((3,), (0,), numel=12), pickle_parts.view((2,), (1,), numel=12)]
        )
    code = rng.choice(pickletools.opcodes).code.encode("latin-1")
    return code + rng.choice([b"", bytes([rng.randrange(256)]), rng.randbytes(4), b"\xff" * 8])


def _pickle(rng: random.Random, code: bytes, donors: list[bytes]) -> bytes:
    """Another program for the machine, out of parts that it mostly knows."""
    parts = _opcodes(code)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        at, change = rng.randrange(len(parts)), rng.randrange(8)
        end = min(len(parts), at + rng.choice([1, 1, 2, 5, 20]))
        if change == 0:
            parts.insert(at, _opcode(rng))
        elif change == 1:
            parts[at] = _opcode(rng)
        elif change == 2:
            del parts[at:end]
        elif change == 3:
            parts[at:at] = parts[at:end] * rng.choice([1, 1, 3, 200])
        elif change == 4:
            donor = _opcodes(rng.choice(donors))
            start = rng.randrange(len(donor))
            parts[at:at] = donor[start : start + rng.choice([1, 5, 20])]
        elif change == 5:
            other = rng.randrange(len(parts))
            parts[at], parts[other] = parts[other], parts[at]
        elif change == 6:
            integers = [i for i, part in enumerate(parts) if part[:1] in b"KMJ\x8a"]
            number = rng.choice([*_NUMBERS[:4], rng.randrange(16), rng.choice(_NUMBERS)])
            parts[rng.choice(integers or [at])] = pickle_parts.number(number)
        else:
            return _bytes_anywhere(rng, b"".join(parts))
        parts = parts or [b"."]
    return b"".join(parts)


def _legacy(rng: random.Random, base: tuple, donors: list[bytes]) -> bytes:
    """A file of torch before 1.6, of which a part is another."""
    parts, change = writer.legacy(*base), rng.randrange(4)
    at = rng.randrange(len(parts))
    if change == 0:
        parts[at] = rng.choice(parts)
    elif change == 1:
        parts[at] = _bytes_anywhere(rng, parts[at] or b"x")
    else:
        parts[3] = _pickle(rng, parts[3], donors)
    return _bytes_anywhere(rng, b"".join(parts)) if change == 2 else b"".join(parts)


def _arrays(path: Path, most: float = math.inf) -> dict:
    arrays = {}
    for name, tensor in state_dict.read(path).items():
        assert math.prod(tensor.shape) * tensor.dtype.itemsize <= most
        array = np.asarray(tensor)
        assert (array.shape, array.dtype) == (tensor.shape, tensor.dtype)
        arrays[name] = array.shape, array.dtype, array.tobytes()
    return arrays


def fuzz(files: int, seed: int, folder: Path, seconds: float = 1.0) -> Counts:
    """Reads mutated files.

    Args:
        files, seed: How many mutations, and of which seed.
        folder: Where there may be one file at a time.
        seconds: How long each may take.

    Raises:
        AssertionError: If one ends otherwise than it should; the file is left in the folder.
    """
    rng, counts, audit, path = random.Random(seed), Counts(), _Audit(), folder / "model.pt"
    bases = list(_bases())
    b"x".decode("cp437")  # zipfile decodes names by it, which imports it once
    with warnings.catch_warnings(action="ignore"):
        originals = [_arrays(writer.save(path, *base)) for base in bases]
    donors = [
        [writer.pickled(obj, protocol, memo=memo)[0] for memo in (True, False)]
        for obj, protocol in bases
    ]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(files):
        base = rng.randrange(len(bases))
        entries = writer.entries(*bases[base])
        kind = rng.choice(["bytes", "records", "pickle", "pickle", "legacy", "legacy"])
        if kind == "records":
            _records(rng, entries)
        elif kind == "pickle":
            # Without a memo, whose numbering is soon out of order, more of a mutation is obeyed.
            code = rng.choice(donors[base])
            entries[0].data = _pickle(rng, code, rng.choice(donors))
        if kind == "legacy":
            content = _legacy(rng, bases[base], rng.choice(donors))
        else:
            content = writer.archive(entries, long=rng.random() < 0.5)
        path.write_bytes(_bytes_anywhere(rng, content) if kind == "bytes" else content)
        outcome = _read(path, originals[base], audit, counts)
        assert counts.slowest < seconds, f"{path} took {counts.slowest} s"
        # No checksum was made right again, so nothing may pass for something else.
        assert kind != "bytes" or outcome != "read otherwise", f"{path} is damaged"
        counts.outcomes[outcome] += 1
    counts.growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return counts


def _read(path: Path, original: dict, audit: _Audit, counts: Counts) -> str:
    size, arrays = path.stat().st_size, None
    tracemalloc.start()
    start = time.process_time()
    audit.active = True
    try:
        with warnings.catch_warnings(action="ignore"):  # of which state dict is taken
            arrays = _arrays(path, size)
    except ValueError as error:
        message = str(error)
        assert type(error) is ValueError, f"{path}: {type(error).__name__}"
        assert message.startswith(f"{path}: ") and message.isprintable(), message
    audit.active = False
    counts.slowest = max(counts.slowest, time.process_time() - start)
    counts.memory = max(counts.memory, tracemalloc.get_traced_memory()[1] / max(size, 2**12))
    tracemalloc.stop()
    events, audit.events = audit.events, []
    assert all(event == ("open", str(path)) for event in events), events
    if arrays is None:
        return "refused"
    return "read unchanged" if arrays == original else "read otherwise"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 2**28
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    folder = Path(tempfile.mkdtemp())
    print(fuzz(arguments.files, arguments.seed, folder))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
