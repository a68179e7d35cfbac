"""Makes pickles and says what Python imports when it loads them.

Prints one JSON object a line: the pickle in hex, the names that were imported, and whether it was
loaded to its end. Nothing that is imported is what its name says: every name gives a stand-in.
"""
import io
import json
import pickle
import pickletools
import random
import struct
import sys
import types

# A stand-in for whatever is imported. It takes every call, state and item.
class Stand:
    def __new__(cls, *args, **kwargs):
        return object.__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    def append(self, item):
        pass

    def extend(self, items):
        pass

    def add(self, item):
        pass


def load(data, base):
    imported = []

    class Unpickler(base):
        def find_class(self, module, name):
            imported.append([module, name])
            return Stand

        def persistent_load(self, pid):
            return Stand()

    try:
        Unpickler(io.BytesIO(data), buffers=[bytearray(b"x")] * 9).load()
        done = True
    except Exception:
        done = False
    return imported, done


def tell(data, kind):
    plain, plain_done = load(data, pickle._Unpickler)
    fast, fast_done = load(data, pickle.Unpickler)
    imported = plain if len(plain) >= len(fast) else fast
    print(json.dumps({
        "hex": data.hex(), "kind": kind, "imports": imported, "done": plain_done or fast_done,
    }))


# Real picklers over random objects.

def fake_class(module, name):
    if module not in sys.modules:
        sys.modules[module] = types.ModuleType(module)
    made = type(name, (), {"__module__": module})
    setattr(sys.modules[module], name, made)
    return made


CLASSES = [fake_class(f"evil{n % 5}.part", f"Thing{n}") for n in range(20)]
for parent in {c.__module__.split(".")[0] for c in CLASSES}:
    sys.modules[parent] = types.ModuleType(parent)


def call_me(*args):
    pass


call_me.__module__ = "evil0.part"
call_me.__qualname__ = "call_me"
sys.modules["evil0.part"].call_me = call_me


class Reduced:
    def __init__(self, value):
        self.value = value

    def __reduce__(self):
        return call_me, (random.random(), ), {"state": 1}, iter(["a", "b"]), iter([("k", "v")])


def objects(rng, depth):
    kind = rng.randrange(18 if depth else 9)
    if kind == 0:
        return rng.choice([None, True, False, 0, 255, 256, 65536, -1, -2**31, 2**31, 2**200, -2**70])
    if kind == 1:
        return rng.random()
    if kind == 2:
        return "".join(rng.choice("ab\\u\nü€'\"") for _ in range(rng.choice([0, 3, 3, 3, 3, 3, 3, 3, 300, 300, 300, 70000])))
    if kind == 3:
        return bytes(rng.randrange(256) for _ in range(rng.choice([0, 3, 3, 3, 3, 3, 3, 3, 300, 300, 300, 70000])))
    if kind == 4:
        return bytearray(b"abc")
    if kind == 5:
        return rng.choice(CLASSES)
    if kind == 6:
        return call_me
    if kind == 7:
        return rng.choice(CLASSES)()
    if kind == 8:
        return Reduced(1)
    if kind in (9, 10):
        return [objects(rng, depth - 1) for _ in range(rng.choice([0, 1, 5]))]
    if kind in (11, 12):
        return tuple(objects(rng, depth - 1) for _ in range(rng.choice([0, 1, 2, 3, 5])))
    if kind in (13, 14):
        return {str(n): objects(rng, depth - 1) for n in range(rng.choice([0, 1, 5]))}
    if kind == 15:
        return rng.choice([set, frozenset])(range(rng.choice([0, 1, 5])))
    if kind == 16:
        made = rng.choice(CLASSES)()
        made.attribute = objects(rng, depth - 1)
        made.itself = made
        return made
    shared = [objects(rng, depth - 1)]
    return [shared, shared, shared]


# Programs of random opcodes.

ARGUMENTS = {
    "decimalnl_short": lambda r: r.choice([b"0", b"1", b"01", b"00", b"7", b"-3"]) + b"\n",
    "decimalnl_long": lambda r: r.choice([b"0L", b"12L", b"-3L"]) + b"\n",
    "int4": lambda r: struct.pack("<i", r.randrange(-3, 9)),
    "uint1": lambda r: bytes([r.randrange(6)]),
    "uint2": lambda r: struct.pack("<H", r.randrange(6)),
    "uint4": lambda r: struct.pack("<I", r.randrange(6)),
    "uint8": lambda r: struct.pack("<Q", r.randrange(40)),
    "float8": lambda r: struct.pack(">d", 1.5),
    "floatnl": lambda r: b"1.5\n",
    "long1": lambda r: b"\x02\x01\x02",
    "long4": lambda r: b"\x02\0\0\0\x01\x02",
    "stringnl": lambda r: r.choice([b"'os'", b'"sy\\x73"', b"'a\\'b'"]) + b"\n",
    "stringnl_noescape": lambda r: r.choice([b"pid", b"os"]) + b"\n",
    "stringnl_noescape_pair": lambda r: r.choice([b"os\nsystem\n", b"evil\nx\n", b"a.b\nc\n"]),
    "unicodestringnl": lambda r: r.choice([b"os", b"\\u006fs", b"a\\\\b", b"sys\\U00000074em"]) + b"\n",
}


def sized(prefix, fmt):
    def make(rng):
        text = rng.choice([b"os", b"system", b"evil", b"x", b"", b"\xc3\xbc"])
        return struct.pack(fmt, len(text)) + text
    return make


for name, fmt in [
    ("string1", "<B"), ("string4", "<i"), ("bytes1", "<B"), ("bytes4", "<I"), ("bytes8", "<Q"),
    ("bytearray8", "<Q"), ("unicodestring1", "<B"), ("unicodestring4", "<I"),
    ("unicodestring8", "<Q"),
]:
    ARGUMENTS[name] = sized(name, fmt)

# What keeps a program going is chosen more often.
OPCODES = [op for op in pickletools.opcodes if op.name not in ("FRAME", "STOP")]
LIKELY = [op for op in OPCODES if op.name in (
    "SHORT_BINUNICODE", "BINUNICODE", "UNICODE", "STRING", "MEMOIZE", "BINPUT", "PUT", "BINGET",
    "GET", "STACK_GLOBAL", "GLOBAL", "INST", "OBJ", "MARK", "EMPTY_TUPLE", "TUPLE1", "TUPLE2",
    "REDUCE", "BUILD", "EMPTY_DICT", "DUP", "POP", "TUPLE", "EMPTY_LIST", "NEWOBJ", "NONE",
)]


def program(rng):
    out = [b"\x80\x04"] if rng.random() < 0.7 else []
    # Something to work with.
    out += [b"(", b"\x8c\x02os\x94", b"\x8c\x06system\x94", b"\x8c\x01x\x94"][: rng.randrange(5)]
    for _ in range(rng.randrange(1, 25)):
        op = rng.choice(LIKELY if rng.random() < 0.85 else OPCODES)
        out.append(op.code.encode("latin-1"))
        if op.arg is not None:
            out.append(ARGUMENTS[op.arg.name](rng))
    return b"".join(out) + b"."


def main(seed, count):
    rng = random.Random(seed)
    random.seed(seed)
    for _ in range(count // 10):
        tree = objects(rng, 3)
        protocol = rng.randrange(6)
        try:
            data = pickle.dumps(tree, protocol)
        except Exception:
            continue
        tell(data, "dumped")
        tell(pickletools.optimize(data), "optimized")
    for _ in range(count):
        tell(program(rng), "program")


main(int(sys.argv[1]), int(sys.argv[2]))
