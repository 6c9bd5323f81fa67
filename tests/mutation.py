"""Damage of every kind that disks, networks and people do to files, from a seed."""

from __future__ import annotations

import random


def damaged(content: bytes, stream: random.Random) -> bytes:
    """The content with a few bits flipped, a part lost, repeated, moved, zeroed, replaced by noise, or cut off."""
    content = bytearray(content)
    kind = stream.randrange(8)
    start = stream.randrange(len(content))
    length = min(1 + int(2 ** stream.uniform(0, 10)), len(content) - start)
    piece = content[start : start + length]
    if kind == 0:
        for _ in range(stream.choice((1, 1, 1, 2, 8, 64))):
            content[stream.randrange(len(content))] ^= 1 << stream.randrange(8)
    elif kind == 1:
        del content[start:]
    elif kind == 2:
        del content[start : start + length]
    elif kind == 3:
        content[start:start] = piece
    elif kind == 4:
        content[start : start + length] = bytes(length)
    elif kind == 5:
        content[start : start + length] = stream.randbytes(length)
    elif kind == 6:
        other = stream.randrange(len(content))
        content[other : other + length] = piece
    else:
        content[stream.randrange(len(content))] = stream.choice(b'\x00\xff0123456789-e."{}[]')
    return bytes(content)
