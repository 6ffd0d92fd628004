"""Pickles that no state dict needs, by what is wrong with them, and what becomes of each."""

import math

from pickle_parts import name, number, text, view

CANARY = "canary-of-test-torch-pickle"
HEAD = b"\x80\x02"
ORDERED = name("collections", "OrderedDict") + b")R"
# Six floats, which `view` makes tensors of.
STORAGE = bytes(24)
DAMAGED = "its pickle is damaged, or not one that torch.save writes"


def call(module, attribute, *arguments):
    """What calls a global, were it to be called."""
    return name(module, attribute) + b"(" + b"".join(map(text, arguments)) + b"tR"


def opcode_i(module, attribute, argument):
    return b"(" + text(argument) + f"i{module}\n{attribute}\n".encode()


# What Python runs when it unpickles them: each makes a folder CANARY.
CODE = f"import os; os.mkdir({CANARY!r})"
RUNS = {
    "os.mkdir": call("os", "mkdir", CANARY),
    "posix.mkdir": call("posix", "mkdir", CANARY),
    "exec": call("builtins", "exec", CODE),
    "eval": call("builtins", "eval", f"__import__('os').mkdir({CANARY!r})"),
    "old builtins": call("__builtin__", "eval", f"__import__('os').mkdir({CANARY!r})"),
    "STACK_GLOBAL": text("os") + text("mkdir") + b"\x93" + text(CANARY) + b"\x85R",
    "in a list": b"](" + call("os", "mkdir", CANARY) + b"e",
    "popped": call("os", "mkdir", CANARY) + b"0N",
    "as metadata": ORDERED + b"}" + text("_metadata") + call("os", "mkdir", CANARY) + b"sb",
    "as a key": b"}" + call("os", "mkdir", CANARY) + b"Ns",
}
RUNS["getattr"] = name("builtins", "getattr") + call("builtins", "__import__", "os")
RUNS["getattr"] += text("mkdir") + b"\x86R" + text(CANARY) + b"\x85R"
RUNS_BY_OPCODES_OF_OLD = {
    "INST": opcode_i("os", "mkdir", CANARY),
    "OBJ": b"(" + name("os", "mkdir") + text(CANARY) + b"o",
}
# In forty steps 2^40 parts, which have to be walked through for their hash.
PAIRS = b")\x940" + b"".join(b"h%ch%c\x86\x940" % (n, n) for n in range(40)) + b"h%c" % 40
# What is left out beside weights, at once and whatever else it would take.
DROPPED = {
    "NEWOBJ": name("argparse", "Namespace") + b")\x81}" + text("lr") + b"K\1sb",
    "NEWOBJ_EX": name("a", "B") + b")}\x92",
    "a dtype of NumPy": name("numpy", "dtype") + text("f8") + b"\x89\x88\x87R(K\3Ntb",
    "items of what is unknown": name("a", "B") + b")R(KaKbe" + text("x") + b"Ns(NNu",
    "a call of what is unknown with a string": name("a", "B") + text("x" * 999) + b"R",
    "a set of what cannot be hashed": b"\x8f(]}\x90",
    "a frozen set": b"(]}\x91",
    "bytes": b"C\3abc",
    "a bytearray": b"\x96\3" + bytes(7) + b"abc",
    "a global of many lines": text("a\nb" * 99) + text("c") + b"\x93",
    "a size of strings": call("torch", "Size", "x"),
    "a class of a network": name("a", "Net"),
    "a list in itself": b"]\x94h\0a",
    "a dict in itself": b"}\x94" + text("x") + b"h\0s",
    "deep lists": b"]" * 100_000 + b"a" * 99_999,
    "deep tuples": b")" + b"\x85" * 150_000,
    "deep dicts": (b"}" + text("x")) * 50_000 + b"N" + b"s" * 50_000,
    "a deep tuple as a key": b"})" + b"\x85" * 150_000 + b"Ns",
    "pairs of pairs as a key": b"}" + PAIRS + b"Ns",
    "pairs of pairs in a set": b"\x8f(" + PAIRS + b"\x90",
    "ints that collide": b"}("
    + b"".join(number(n * (2**61 - 1)) + b"N" for n in range(9999))
    + b"u",
    "a billion laughs": b"(]\x94"
    + b"".join(b"](" + b"h%c" % n * 10 + b"e\x94" for n in range(30))
    + b"t",
    "a far memo": b"Nr\xff\xff\xff\xff",
    "a long": b"\x8a\xff" + b"\x7f" * 255,
}
TUPLE_OF_MANY = b"(" + b"N" * 2**17 + b"t\x94"
# Of these the pickle and what it is refused for; the head and the end are left to add.
REFUSED = {
    **{kind: (code, DAMAGED) for kind, code in RUNS_BY_OPCODES_OF_OLD.items()},
    "EXT1": (b"\x82\1", DAMAGED),
    "PERSID": (b"Pstorage\n", DAMAGED),
    "DUP": (b"N2", DAMAGED),
    "LONG4": (b"\x8b\xff\xff\xff\x7f1", DAMAGED),
    "a global of a number": (b"K\1K\2\x93", DAMAGED),
    "a call of a string": (text("os") + b")R", DAMAGED),
    "a call of a dtype": (name("torch", "float32") + b")R", DAMAGED),
    "a call with too many": (call("collections", "OrderedDict", "x"), DAMAGED),
    "a call with too little": (name("torch._utils", "_rebuild_tensor_v2") + b")R", DAMAGED),
    "a call with very many": (
        TUPLE_OF_MANY + name("torch", "Size") + b"h\0R",
        DAMAGED,
    ),
    "an unknown persistent id": (text("module") + b"Q", "a persistent id that is not torch's"),
    "a persistent id of very many": (
        TUPLE_OF_MANY + b"h\0Q",
        "a persistent id that is not torch's",
    ),
    "a persistent id of lists": (b"(]]]]]tQ", "a persistent id that is not torch's"),
    "a dtype as a tag": (
        b"(" + name("torch", "int8") + name("torch", "int8") * 4 + b"tQ",
        "a persistent id that is not torch's",
    ),
    "a string that is not UTF-8": (text(b"\xff"), DAMAGED),
    "a huge string": (b"X\xff\xff\xff\xff", "is cut short"),
    "a huge string8": (b"\x8d" + b"\xff" * 7 + b"\x7f", "is cut short"),
    "huge bytes": (b"\x8e" + b"\xff" * 7 + b"\x3f", "is cut short"),
    "a huge bytearray": (b"\x96" + b"\xff" * 7 + b"\x3f", "is cut short"),
    "a memo of nothing": (b"q\0", DAMAGED),
    "a recall of nothing": (b"h\0", DAMAGED),
    "a far recall": (b"j\xff\xff\xff\xff", DAMAGED),
    "a call of nothing": (b"R", DAMAGED),
    "items without a mark": (b"}NNu", DAMAGED),
    "an append to a tuple": (b")Na", DAMAGED),
    "an append to a tensor": (view((6,), (1,)) + b"Na", DAMAGED),
    "an item of a list": (b"]K\0Ns", DAMAGED),
    "an item of a dtype": (name("torch", "float32") + text("x") + b"Ns", DAMAGED),
    "a key without a value": (b"}(Nu", DAMAGED),
    "a key twice": (b"}" + (text("w") + b"Ns") * 2, "sets the key 'w' of a dict twice"),
    "very many parts": (b"(" + b"]" * 2**20 + b"t", "its pickle has too many parts"),
    "very many memos": (b"N" + b"\x94" * 2**20, "its pickle has too many parts"),
    "protocol 99": (b"\x80\x63N", "unsupported pickle protocol: 99"),
}

V3 = view((1,), (1,)).replace(b"_v2", b"_v3")[:-2] + name("torch", "complex128") + b"tR"
UNTYPED = (b"torch\nFloatS", b"torch.storage\nUntypedS"), (number(6) + b"tQ", number(24) + b"tQ")
TENSORS = {
    "two dtypes": (V3, "a dtype other than that of its storage"),
    "part of an element": (V3.replace(*UNTYPED[0]).replace(*UNTYPED[1]), "not a whole number of"),
    "beyond the end": (view((7,), (1,)), "reaches beyond its end"),
    "an offset beyond the end": (view((6,), (1,), offset=1), "reaches beyond its end"),
    "a stride beyond the end": (view((2, 3), (4, 1)), "reaches beyond its end"),
    "terabytes by stride 0": (view((2**40,), (0,)), "repeats them to 1099511627776"),
    "more by overlap": (view((3, 4), (1, 1)), "repeats them to 12"),
    "a product beyond 64 bits": (view((2**62,) * 60, (0,) * 60), "to a number of 3721 bits"),
    "an extent beyond 64 bits": (view((2, 2), (2**62, 2**62)), "reaches beyond its end"),
    "an empty one too large": (view((0, 2**62, 2**62), (1, 1, 1)), "sizes that no array can have"),
    "a negative size": (view((-1,), (1,)), "-1 as a size or stride"),
    "a negative stride": (view((6,), (-1,), offset=5), "-1 as a size or stride"),
    "a negative offset": (view((1,), (1,), offset=-1), "-1 as a size or stride"),
    "a bool as a size": (view((True,), (1,)), "a bool as a size or stride"),
    "NaN as a size": (view((math.nan,), (1,)), "a float as a size or stride"),
    "a float as a stride": (view((1,), (1.0,)), "a float as a size or stride"),
    "a huge size": (view((2**2000,), (1,)), "a number of 2001 bits as a size or stride"),
    "a huge offset": (view((0,), (1,), offset=2**63), "9223372036854775808 as a size or stride"),
    "65 dimensions": (view((1,) * 65, (1,) * 65), "a tensor of 65 dimensions"),
    "fewer strides": (view((2, 3), (1,)), "sizes and strides are not two such tuples"),
    "no such storage": (view((6,), (1,), key="1"), "24 bytes, but has none|other storages than"),
    "a path as a storage": (view((6,), (1,), key="../data.pkl"), "has none|other storages"),
    "a long name of a storage": (
        view((6,), (1,), key="0" * 99),
        "persistent id that is not torch",
    ),
    "a storage of less": (view((5,), (1,), numel=5), "have 20 bytes, but has 24"),
    "a storage of more": (view((6,), (1,), numel=7), "have 28 bytes, but has 24"),
    "a storage of less than 0": (view((0,), (1,), numel=-1), "persistent id that is not torch's"),
    "another dtype": (
        view((6,), (1,), storage="DoubleStorage"),
        "have 48 bytes, but has 24|is not whole",
    ),
    "two storages of one name": (
        view((6,), (1,)) + view((5,), (1,), numel=5) + b"\x86",
        "two storages of the one key '0'",
    ),
    "quantised": (view((6,), (1,), storage="QInt8Storage"), "persistent id that is not torch's"),
    "no dtype": (
        view((6,), (1,)).replace(*UNTYPED[0]).replace(*UNTYPED[1]),
        "something other than a storage and a dtype",
    ),
    "no storage": (
        name("torch._utils", "_rebuild_tensor_v2") + b"(NK\0))\x89" + ORDERED + b"tR",
        "something other than a storage and a dtype",
    ),
    "negated": (
        view((6,), (1,))[:-2] + b"}" + text("neg") + b"\x88stR",
        "a negated or conjugated tensor",
    ),
    "bools of other bytes": (
        view((24,), (1,), numel=24, storage="BoolStorage"),
        "has bools other than 0 and 1|24 bytes, but has 6",
    ),
}
