"""`Columns`: many records at once, an array per column. What looks at all rows of a run looks at them here."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from robustvideo.evaluation.records import SCHEMA, Record, records_of, table_of

Indices = NDArray[np.int64]

Coded = tuple[Indices, Sequence[Hashable]]
"""A column as numbers, and what they stand for."""


class Columns:
    """Rows of the record schema, column by column.

    ``rows.label``, ``rows.attack``, ... are arrays with an element per row: numbers, truth values, or texts (as
    objects); for lists there are `lists` and `flattened`. Rows that are chosen from others share their columns with
    them, and each is decoded when it is first asked for.
    """

    def __init__(self, whole: _Decoded, at: Indices):
        """Use `of` or `of_table`."""
        self._whole, self._at = whole, at

    @classmethod
    def of(cls, records: Iterable[Record]) -> Columns:
        """The columns of some records."""
        return cls.of_table(table_of(records))

    @classmethod
    def of_table(cls, table: pa.Table) -> Columns:
        """All rows of a table of `records.SCHEMA`."""
        return cls(_Decoded(table), np.arange(table.num_rows))

    def __len__(self) -> int:
        return len(self._at)

    def __getattr__(self, name: str) -> NDArray[Any]:
        if name not in SCHEMA.names:
            raise AttributeError(name)
        return self._whole.values(name)[self._at]

    def where(self, holds: NDArray[np.bool_]) -> Columns:
        """The rows for which ``holds``, in their order."""
        return Columns(self._whole, self._at[holds])

    def coded(self, name: str) -> Coded:
        """A column of texts or numbers as numbers from 0, and what they stand for, here or in the rows beside these."""
        codes, values = self._whole.coded(name)
        return codes[self._at], values

    def lists(self, name: str) -> tuple[NDArray[Any], Indices, Indices]:
        """A column of lists: the elements of all of them, and where those of each row start and how many there are."""
        elements, starts, lengths = self._whole.lists(name)
        return elements, starts[self._at], lengths[self._at]

    def flattened(self, name: str) -> tuple[NDArray[Any], Indices]:
        """A column of lists: the elements of these rows one after another, and from which row each is."""
        elements, starts, lengths = self.lists(name)
        row = np.repeat(np.arange(len(self)), lengths)
        return elements[(starts - np.cumsum(lengths) + lengths)[row] + np.arange(len(row))], row

    def groups(self, *keys: str | Coded) -> dict[tuple[Any, ...], Columns]:
        """The rows by what they have in some columns, in the order of their first."""
        coded = [self.coded(key) if isinstance(key, str) else key for key in keys]
        together = np.zeros(len(self), np.int64)
        for codes, values in coded:
            together = together * len(values) + codes
        _, first, counts = np.unique(together, return_index=True, return_counts=True)
        members = np.split(np.argsort(together, kind="stable"), np.cumsum(counts)[:-1])
        return {
            tuple(values[codes[first[group]]] for codes, values in coded): Columns(
                self._whole, self._at[members[group]]
            )
            for group in np.argsort(first)
        }

    def table(self) -> pa.Table:
        """The rows as a table of `records.SCHEMA`."""
        return self._whole.table.take(self._at)

    def records(self) -> list[Record]:
        """The rows one by one."""
        return records_of(self.table())


class _Decoded:
    """A table, and what has been decoded of it."""

    def __init__(self, table: pa.Table):
        self.table = table
        self._values: dict[str, NDArray[Any]] = {}
        self._coded: dict[str, Coded] = {}

    def values(self, name: str) -> NDArray[Any]:
        if name not in self._values:
            if pa.types.is_string(self.table.schema.field(name).type):
                codes, texts = self.coded(name)
                self._values[name] = np.array(texts, dtype=object)[codes]
            else:
                self._values[name] = self.table.column(name).to_numpy()
        return self._values[name]

    def coded(self, name: str) -> Coded:
        if name not in self._coded:
            encoded = self._column(name).dictionary_encode()
            self._coded[name] = encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()
        return self._coded[name]

    def lists(self, name: str) -> tuple[NDArray[Any], Indices, Indices]:
        column = self._column(name)
        offsets = column.offsets.to_numpy().astype(np.int64)
        return column.values.to_numpy(zero_copy_only=False), offsets[:-1], np.diff(offsets)

    def _column(self, name: str) -> pa.Array:
        column = self.table.column(name)
        return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
