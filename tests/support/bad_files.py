"""Files that no program should trip over, in the place of configurations and data: a corpus made by hand."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def _laughs(begin: bytes, link: bytes, levels: int) -> bytes:
    """An alias bomb: each level holds nine times the one before."""
    lines = [begin]
    for level in range(levels):
        names = b",".join([b"*a%d" % level] * 9)
        lines.append(b"a%d: &a%d " % (level + 1, level + 1) + link.replace(b"ALL", names))
    return b"\n".join(lines) + b"\n"


YAML: dict[str, bytes] = {
    "empty": b"",
    "only a NUL": b"\0",
    "NUL within": b"name: a\0b\n",
    "byte order mark alone": b"\xef\xbb\xbf",
    "invalid UTF-8": b"name: \xff\xfe\n",
    "half of UTF-16": b"\xff\xfen\0a",
    "control characters": b"name: \x07\x1b[31m\n",
    "deep list": b"[" * 100_000,
    "deep mapping": b"{a: " * 20_000,
    "deep and closed": b"name: " + b"[" * 3000 + b"]" * 3000,
    "python call": b"name: !!python/object/apply:os.system ['touch pwned']\n",
    "python new": b"name: !!python/object/new:os.system ['touch pwned']\n",
    "python name": b"name: !!python/name:os.system\n",
    "python module": b"!!python/module:os\n",
    "unknown tag": b"name: !x 1\n",
    "set": b"name: !!set {a}\n",
    "ordered mapping": b"name: !!omap [a: 1]\n",
    "bad binary": b"name: !!binary a\n",
    "bad date": b"name: !!timestamp 2024-13-45\n",
    "integer of 5000 digits": b"seed: " + b"9" * 5000 + b"\n",
    "hexadecimal of 50,000 digits": b"seed: 0x" + b"f" * 50_000 + b"\n",
    "base 60": b"seed: 1" + b":1" * 20_000 + b"\n",
    "int64 and one": b"seed: 9223372036854775808\n",
    "float beyond double": b"seed: 1e999\n",
    "not a number": b"seed: .nan\n",
    "key twice": b"seed: 1\nseed: 2\n",
    "laughs": _laughs(b"a0: &a0 [x,x,x]", b"[ALL]", 12),
    "laughs by merging": _laughs(b"a0: &a0 {x: 1}", b"{<<: [ALL]}", 9),
    "laughs by interpolation": b"a0: xxxxxxxxxx\n"
    + b"".join(b"a%d: ${a%d}${a%d}\n" % (n + 1, n, n) for n in range(60)),
    "interpolations by the thousand": b"name: " + b"${seed}" * 5000 + b"\n",
    "interpolation within another": b"name: " + b"${" * 500 + b"a" + b"}" * 500 + b"\n",
    "interpolation of itself": b"name: ${name}\n",
    "interpolation cut off": b"name: ${\n",
    "resolver": b"name: ${oc.decode:1}\n",
    "resolver by another name": b"name: ${oc.${name}:1}\n",
    "alias of itself": b"a: &a [*a]\n",
    "merge of itself": b"&a {<<: *a}\n",
    "alias of nothing": b"a: *nothing\n",
    "two documents": b"seed: 1\n---\nseed: 2\n",
    "list": b"[1, 2]\n",
    "text": b"hello\n",
    "number": b"5\n",
    "tab": b"\t- a\n",
    "YAML 9": b"%YAML 9.9\n---\nseed: 1\n",
    "list for a key": b"[1, 2]: 3\n",
    "mapping for a key": b"{a: b}: 3\n",
    "null for a key": b"~: 3\n",
    "date for a key": b"2001-01-01: 3\n",
    "12,000 keys": b"".join(b"k%d: 1\n" % n for n in range(12_000)),
    "key of 3 MB": b"k" * 3_000_000 + b": 1\n",
    "17 MiB": b"# " + b"x" * (17 * 2**20),
    "lone surrogate": b'name: "\\ud800"\n',
    "missing for ever": b"???\n",
    "extends a device": b"extends: /dev/zero\n",
    "extends memory": b"extends: /proc/self/mem\n",
    "extends a directory": b"extends: /\n",
    "extends a number": b"extends: [1, 2]\n",
    "extends a thousand": b"extends: [" + b"quickstart," * 1000 + b"]\n",
    "extends a NUL": b'extends: "a\\0b"\n',
}
"""Contents that are no configuration, inventory, study or infra file, by what is wrong with them."""

ROW = b'{"question": "q", "answer": "1"}\n'
JSONL: dict[str, bytes] = {
    "empty": b"",
    "only a NUL": b"\0",
    "NUL after a row": ROW + b"\0\n",
    "NUL in a text": b'{"question": "a\0b", "answer": 1}\n',
    "invalid UTF-8": b'{"question": "\xff", "answer": 1}\n',
    "cut off": ROW[:-5],
    "deep list": b"[" * 100_000 + b"\n",
    "deep object": b'{"a":' * 100_000 + b"\n",
    "deep answer": b'{"question": "q", "answer": ' + b"[" * 900 + b"]" * 900 + b"}\n",
    "integer of 5000 digits": b'{"question": "q", "answer": ' + b"9" * 5000 + b"}\n",
    "float beyond double": b'{"question": "q", "answer": 1e999}\n',
    "not a number": b'{"question": "q", "answer": NaN}\n',
    "key twice": b'{"question": "q", "question": "r", "answer": 1}\n',
    "last of many keys twice": b"{" + b",".join(b'"k%d":1' % n for n in range(50_000)) + b',"k49999":2}\n',
    "list": b"[1]\n",
    "number": b"1\n",
    "null": b"null\n",
    "question is a number": b'{"question": 1, "answer": 1}\n',
    "answer is an object": b'{"question": "q", "answer": {}}\n',
    "answer is empty": b'{"question": "q", "answer": " "}\n',
    "id is a list": b'{"id": [], "question": "q", "answer": 1}\n',
    "id twice": b'{"id": 1, "question": "q", "answer": 1}\n{"id": 1, "question": "r", "answer": 1}\n',
    "prompt is a text": b'{"prompt": "x", "reward_model": {}}\n',
    "lone surrogate": b'{"question": "\\ud800", "answer": 1}\n',
    "line of 70 MiB": b'{"question": "' + b"a" * (70 * 2**20) + b'"}\n',
    "carriage returns": ROW.replace(b"\n", b"\r") * 3,
    "key of 100 kB": b'{"' + b"k" * 100_000 + b'": 1}\n',
    "gzip": b"\x1f\x8b" + bytes(20),
    "Parquet": b"PAR1" + bytes(20),
    "git-lfs": b"version https://git-lfs.github.com/spec/v1\n",
}
"""Contents that are no problems in JSONL, by what is wrong with them."""


def _loop(path: Path) -> None:
    path.symlink_to(path.with_suffix(".other"))
    path.with_suffix(".other").symlink_to(path)


PLACES: dict[str, Callable[[Path], None]] = {
    "nothing": lambda path: None,
    "a directory": Path.mkdir,
    "a pipe": os.mkfifo,
    "a link to itself": lambda path: path.symlink_to(path),
    "links in a circle": _loop,
    "a link to nothing": lambda path: path.symlink_to(path.with_name("nothing")),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to memory": lambda path: path.symlink_to("/proc/self/mem"),
    "a link to a directory": lambda path: path.symlink_to(path.parent),
}
"""What can be in the place of a file."""
