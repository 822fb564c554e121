"""Files damaged at random, and the same from the same seed: bytes, numbers, fields, members.

Damage that a format's own checks would find at once (lengths, checksums) is made good again, so
that what lies behind them is reached.
"""

import gzip
import io
import json
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import PurePath
from random import Random
from typing import Any

DEPTH = 100_000
"""Of nested brackets."""

NUMBERS = (
    math.nan, math.inf, -math.inf, 1e300, -1e300, 1e-300, 1e38, 1e19, 1e9, 0.0, -0.0, -1, 0, 1, 2,
    7, 255, 256, -(2**31), 2**31, 2**32 - 1, -(2**63), 2**63 - 1, 2**63, 2**64 - 1, 10**400,
)  # fmt: skip

VALUES = (
    *NUMBERS, True, False, None, "", "text", "nan", "../../up.png", "/absolute.png", "a\0b",
    "\ud800", "1e999", "x" * 5000, [], {}, [[]], [1], {"a": 1}, [math.nan] * 4, ["x"] * 4,
)  # fmt: skip

WORDS = ("", "x", "[]", "nan nan", "1" * 5000, "null", "[" * DEPTH, "{a: " * 2000)

_NESTED, _LONG, _REPEATED = "@nested@", "@long@", "@repeated@"
"""Stand in a tree for text that no tree can be written to."""


def mutated(random: Random, name: str, content: bytes) -> bytes:
    """A damaged copy of a file; its name's suffix tells the format, the seed what is done."""
    kinds: dict[str, Callable[[Random, bytes], bytes]] = {
        ".json": _json, ".txt": _text, ".yml": _text, ".safetensors": _safetensors, ".pt": _archive,
        ".ckpt": _archive, ".png": _png, ".jgz": _gzipped_json,
    }  # fmt: skip
    by_format = kinds.get(PurePath(name).suffix)
    if name.endswith("ascii.ply"):
        by_format = _text
    if by_format is not None and random.random() < 0.7:
        return by_format(random, content)
    return _numbers(random, content) if random.random() < 0.5 else damaged_bytes(random, content)


def damaged_bytes(random: Random, content: bytes) -> bytes:
    """Bits turned, bytes replaced, inserted, repeated, or the end cut off or added to."""
    at = random.randrange(len(content) + 1)
    length = min(len(content) - at, random.choice((1, 1, 2, 4, 8, 16, 64)))
    run = content[at : at + length]
    noise = random.randbytes(random.choice((1, 4, 8, 32)))
    kept = content[:at], content[at + length :]
    filled = bytes([random.choice((0, 255))]) * length
    made = (
        content[:at], content + noise, content[:at] + noise + content[at:],
        content[:at] + run + content[at:], kept[0] + kept[1], kept[0] + filled + kept[1],
    )  # fmt: skip
    choice = random.randrange(len(made) + 2)
    if choice < len(made) or not content:
        return made[choice % len(made)]
    turned = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 4))):
        turned[random.randrange(len(turned))] ^= 1 << random.randrange(8)
    return bytes(turned)


def _numbers(random: Random, content: bytes) -> bytes:
    """A place that may hold a number holds another one."""
    places = []
    for code, size in (("<d", 8), ("<f", 4), ("<I", 4), ("<Q", 8)):
        for at in range(0, min(len(content), 4000) - size + 1):
            value = abs(struct.unpack_from(code, content, at)[0])
            if value and 1e-6 < value < 1e5:
                places.append((code, at, size))
    if not places:
        return damaged_bytes(random, content)
    code, at, size = random.choice(places)
    packed = random.choice([p for p in (_packed(code, value) for value in NUMBERS) if p])
    return content[:at] + packed + content[at + size :]


def _packed(code: str, value: float) -> bytes | None:
    try:
        return struct.pack(code, value)
    except (struct.error, OverflowError):
        return None


def _text(random: Random, content: bytes) -> bytes:
    """Words and lines replaced, dropped, repeated or exchanged."""
    text = content.decode(errors="surrogateescape")
    words = list(re.finditer(r"[^\s:,]+", text))
    lines = text.split("\n")
    row = random.randrange(len(lines))
    match random.randrange(7):
        case 0 | 1 | 2 if words:
            word = random.choice(words)
            new = random.choice((*map(str, NUMBERS), *WORDS, word[0] + word[0]))
            changed = text[: word.start()] + new + text[word.end() :]
        case 3:
            changed = "\n".join(lines[:row] + lines[row + 1 :])
        case 4:
            changed = "\n".join([*lines[:row], lines[row], *lines[row:]])
        case 5:
            other = random.randrange(len(lines))
            lines[row], lines[other] = lines[other], lines[row]
            changed = "\n".join(lines)
        case _:
            changed = "\n".join(lines[:row])
    return changed.encode(errors="surrogateescape")


def _json(random: Random, content: bytes) -> bytes:
    tree = changed_tree(random, json.loads(content))
    text = json.dumps(tree, indent=1)
    text = text.replace(f'"{_NESTED}"', "[" * DEPTH + "]" * DEPTH)
    text = text.replace(f'"{_LONG}"', "1" * 5000)
    return text.replace(f'"{_REPEATED}"', '{"a": 1, "a": {"a": ' * DEPTH).encode()


def _gzipped_json(random: Random, content: bytes) -> bytes:
    """Changed within; its checksum is right."""
    return gzip.compress(_json(random, gzip.decompress(content)), mtime=0)


def changed_tree(random: Random, tree: Any, values: tuple = VALUES) -> Any:
    """Lists and objects with one value, key or entry changed; given back, perhaps the same one."""
    places = list(_places(tree))
    if not places or random.random() < 0.02:
        return random.choice(values)
    parent, key = random.choice(places)
    match random.randrange(10):
        case 0:
            del parent[key]
        case 1 if isinstance(parent, list):
            parent.insert(key, parent[key])
        case 1:
            parent[str(key) + "x"] = parent.pop(key)
        case 2:
            parent[key] = random.choice(([parent[key]], str(parent[key]), {"a": parent[key]}))
        case 3:
            parent[key] = random.choice((_NESTED, _NESTED, _LONG, _REPEATED))
        case 4:
            other, other_key = random.choice(places)
            if not isinstance(other[other_key], list | dict):
                parent[key] = other[other_key]
        case _:
            parent[key] = random.choice(values)
    return tree


def _places(tree: Any):
    """Every (container, key) below a tree."""
    keys = (
        tree.keys()
        if isinstance(tree, dict)
        else range(len(tree))
        if isinstance(tree, list)
        else ()
    )
    for key in keys:
        yield tree, key
        yield from _places(tree[key])


def _safetensors(random: Random, content: bytes) -> bytes:
    """The header's fields, or those of JSON within them, or the numbers behind it."""
    (length,) = struct.unpack_from("<Q", content)
    header, body = content[8 : 8 + length], content[8 + length :]
    tree = json.loads(header)
    metadata = tree.get("__metadata__", {})
    match random.randrange(3):
        case 0:
            return content[: 8 + length] + _numbers(random, body)
        case 1 if metadata:
            key = random.choice(sorted(metadata))
            try:
                metadata[key] = _json(random, metadata[key].encode()).decode()
            except ValueError:
                metadata[key] = random.choice(("", "{}", "[]", "[" * DEPTH))
            header = json.dumps(tree).encode()
        case _:
            header = _json(random, header)
    return struct.pack("<Q", len(header)) + header + body


def _archive(random: Random, content: bytes) -> bytes:
    """A member of a zip file is damaged, lost or doubled; checksums are right again."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        names = old.namelist()
        chosen = random.choice([*names, *[n for n in names if n.endswith(".pkl")] * 3])
        kind = random.choice((_numbers, damaged_bytes, damaged_bytes))
        is_lost = random.random() < 0.05
        for name in names:
            data = old.read(name)
            if name != chosen:
                new.writestr(name, data)
            elif not is_lost:
                new.writestr(name, kind(random, data))
    return made.getvalue()


def _png(random: Random, content: bytes) -> bytes:
    """A chunk is damaged, lost or doubled; its checksum is right again."""
    chunks, at = [], 8
    while at + 8 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    row = random.randrange(len(chunks))
    kind, data = chunks[row]
    match random.randrange(4):
        case 0:
            del chunks[row]
        case 1:
            chunks.insert(row, chunks[row])
        case _:
            chunks[row] = kind, damaged_bytes(random, data)
    pieces = [content[:8]]
    for name, body in chunks:
        checksum = struct.pack(">I", zlib.crc32(name + body))
        pieces += [struct.pack(">I", len(body)), name, body, checksum]
    return b"".join(pieces)
