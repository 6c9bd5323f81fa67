"""Dividing a list into train, val and test, without separating what belongs together."""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Hashable, Sequence

PARTS = ("train", "val", "test")


def divided(labels: Sequence[str], ties: Sequence[Sequence[Hashable]], shares: Sequence[int]) -> list[str]:
    """The part of every row: class by class in the rows' order, in three shares; rows of one group are in one part.

    A group is of the class of its first row, and its place in that class is its middle, all its rows counted. So the
    shares are shares of rows, as nearly as groups allow; where every row is a group, as nearly as rows do.

    Args:
        labels: the class of every row.
        ties: what every row is of (a file, a person); rows that have one in common, or are tied through others, are
            one group.
        shares: whole numbers, of train, val and test.
    """
    heads = _groups(ties)
    rows = Counter(heads)
    groups = list(dict.fromkeys(heads))  # by their first row, in order
    total, before, part = Counter[str](), Counter[str](), dict[int, str]()
    for head in groups:
        total[labels[head]] += rows[head]
    edges = [sum(shares[: i + 1]) / max(1, sum(shares)) for i in range(len(shares) - 1)]
    for head in groups:
        label = labels[head]
        part[head] = PARTS[bisect(edges, (before[label] + rows[head] / 2) / total[label])]
        before[label] += rows[head]
    return [part[head] for head in heads]


def _groups(ties: Sequence[Sequence[Hashable]]) -> list[int]:
    """For every row the first row of its group: sets of rows, joined where a tie is shared."""
    head = list(range(len(ties)))

    def first(row: int) -> int:
        while head[row] != row:
            head[row] = head[head[row]]  # halves the way for the next one
            row = head[row]
        return row

    seen: dict[Hashable, int] = {}
    for row, own in enumerate(ties):
        for tie in own:
            one, other = first(seen.setdefault(tie, row)), first(row)
            head[max(one, other)] = min(one, other)
    return [first(row) for row in range(len(ties))]
