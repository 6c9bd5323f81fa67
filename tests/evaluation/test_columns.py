"""Metrics on columns are what counting record by record gives; columns are the records, whichever are chosen."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustvideo.errors import InputError
from robustvideo.evaluation.columns import Columns
from robustvideo.evaluation.metrics import (
    Interval,
    confusions,
    mean_loss,
    norm_of,
    standing_by_step,
    success_after_codecs,
    summarise,
    union,
    wilson,
    worst_case,
)
from robustvideo.evaluation.records import (
    CLEAN,
    Record,
    merge_shards,
    read_records,
    read_table,
    shard,
    table_of,
    write_shard,
)

CLASSES = st.integers(0, 2)
LOSSES = st.lists(st.floats(-3, 3) | st.sampled_from([math.nan, math.inf]), max_size=4)


@st.composite
def record(draw: st.DrawFn) -> Record:
    """Any row, from few names: clips meet attacks several times, not at all, unread, or crafted elsewhere."""
    attack, threat, eps = draw(
        st.sampled_from(
            [
                (CLEAN, "", 0.0),
                ("pgd", "linf(eps=4/255)", 4 / 255),
                ("pgd", "linf(eps=8/255)", 8 / 255),
                ("pgd", "linf(eps=8/255, support=patch(size=8))", 8 / 255),
                ("square", "linf(eps=8/255)", 8 / 255),
                ("square", "l2(eps=1.0)", 1.0),
            ]
        )
    )
    codecs = draw(st.lists(st.sampled_from(["mjpeg:5", "h264:23"]), unique=True))
    number, trace = st.integers(0, 9), draw(LOSSES)
    return Record(
        sample_id=draw(st.sampled_from("abcd")),
        label=draw(CLASSES),
        attack=attack,
        eps=eps,
        defense=draw(st.sampled_from(["none", "jpeg"])),
        seed=draw(st.integers(0, 1)),
        clean_prediction=draw(CLASSES),
        adversarial_prediction=draw(CLASSES),
        success=draw(st.booleans()),
        first_success_step=draw(st.integers(-1, 4)),
        forward_passes=draw(number),
        backward_passes=draw(number),
        seconds=draw(st.floats(0, 2)),
        linf=draw(st.floats(0, 1)),
        l2=draw(st.floats(0, 9)),
        l21=draw(st.floats(0, 9)),
        ssim=draw(st.floats(0, 1)),
        psnr=draw(st.floats(9, 99) | st.just(math.inf)),
        frames_touched=draw(number),
        audio_snr_db=draw(st.none() | st.floats(-9, 99) | st.just(-math.inf)),
        threat=threat,
        target=draw(st.integers(-1, 2)),
        loss_trace=trace,
        steps=draw(st.none() | st.integers(0, 6)),
        trace_steps=draw(st.none() | st.just(len(trace))),
        status=draw(st.sampled_from(["ok", "ok", "ok", "unusable"])),
        surrogate=draw(st.sampled_from(["", "", "embedded:r3d"])),
        codecs=codecs,
        codec_success=draw(st.lists(st.booleans(), min_size=len(codecs), max_size=len(codecs))),
    )


RECORDS = st.lists(record(), max_size=14)


def usable(rows: Iterable[Record]) -> list[Record]:
    return [r for r in rows if r.status == "ok"]


def recognised_before(rows: Iterable[Record]) -> list[Record]:
    return [r for r in usable(rows) if r.clean_prediction == r.label]


def rate(rows: Iterable[Record], holds: Callable[[Record], bool]) -> Interval:
    verdicts: dict[str, list[bool]] = {}
    for r in rows:
        verdicts.setdefault(r.sample_id, []).append(holds(r))
    return wilson(math.fsum(fmean(own) for own in verdicts.values()), len(verdicts))


def group(rows: Iterable[Record], key: Callable[[Record], Any]) -> dict[Any, list[Record]]:
    found: dict[Any, list[Record]] = {}
    for r in rows:
        found.setdefault(key(r), []).append(r)
    return found


def same(ours: object, theirs: object) -> bool:
    """Equal, where NaN equals NaN and a sum may be rounded once more."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(same(value, theirs[key]) for key, value in ours.items())
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, float) and isinstance(theirs, float):
        return ours == pytest.approx(theirs, rel=1e-12, abs=1e-15, nan_ok=True)
    return type(ours) is type(theirs) and ours == theirs


@given(RECORDS)
@settings(max_examples=150)
def test_summaries(rows: list[Record]) -> None:
    expected = []
    for (defense, norm, eps, attack, surrogate), own in group(
        rows, lambda r: (r.defense, norm_of(r), r.eps, r.attack, r.surrogate)
    ).items():
        right = recognised_before(own)
        won = [r for r in right if r.success and attack != CLEAN]

        def mean(name: str, of: list[Record] = won) -> float:
            return fmean(getattr(r, name) for r in of) if of else math.nan

        psnr = [r.psnr for r in won]
        changed = [value for value in psnr if math.isfinite(value)] or psnr
        heard = [r.audio_snr_db for r in won if r.audio_snr_db is not None]
        loud = [value for value in heard if math.isfinite(value)] or heard
        if len(loud) < len(won) and not any(map(math.isfinite, loud)):
            loud = []  # of some unchanged sound and some over silence there is no mean
        targeted = any(r.target >= 0 for r in usable(own))
        names = ("linf", "l2", "l21", "ssim", "frames_touched")
        expected.append(
            {
                **{"defense": defense, "norm": norm, "eps": eps, "attack": attack, "surrogate": surrogate},
                "clips": len({r.sample_id for r in usable(own)}),
                "unusable": len({r.sample_id for r in rows if r.defense == defense and r.status != "ok"}),
                "clean_accuracy": asdict(rate(usable(own), lambda r: r.clean_prediction == r.label)),
                "robust_accuracy": asdict(rate(usable(own), lambda r: r.adversarial_prediction == r.label)),
                "correct": len({r.sample_id for r in right}),
                "fooling_rate": asdict(rate(right, lambda r: r.adversarial_prediction != r.label)),
                "target_rate": asdict(rate(right, lambda r: r.adversarial_prediction == r.target))
                if targeted
                else None,
                "successes": len(won),
                "iterations": mean("first_success_step"),
                **{name: mean(name) for name in names},
                "psnr": fmean(changed) if changed else math.nan,
                "audio_snr_db": fmean(loud) if loud else math.nan,
                "forward_passes": sum(r.forward_passes for r in usable(own)),
                "backward_passes": sum(r.backward_passes for r in usable(own)),
                "seconds": math.fsum(r.seconds for r in usable(own)),
            }
        )
    first = list(dict.fromkeys(r.defense for r in rows))
    expected.sort(key=lambda s: (first.index(s["defense"]), s["norm"], s["eps"]))
    assert same([asdict(s) for s in summarise(Columns.of(rows))], expected)


@given(RECORDS)
@settings(max_examples=150)
def test_worst_cases(rows: list[Record]) -> None:
    found = {(u.defense, u.norm, u.eps): u for u in union(Columns.of(rows))}
    groups = group((r for r in rows if r.attack != CLEAN), lambda r: (r.defense, norm_of(r), r.eps))
    assert found.keys() == groups.keys()
    for key, own in groups.items():
        everybody = {(r.attack, r.surrogate) for r in usable(own)}
        stood = {
            clip: all(r.adversarial_prediction == r.label for r in met)
            for clip, met in group(usable(own), lambda r: r.sample_id).items()
            if {(r.attack, r.surrogate) for r in met} == everybody
        }
        assert worst_case(Columns.of(own)) == stood
        assert (found[key].clips, found[key].robust_accuracy) == (len(stood), wilson(sum(stood.values()), len(stood)))
        attacks = dict.fromkeys((r.attack, r.surrogate) for r in own)
        assert found[key].attacks == tuple(f"{a} from {s}" if s else a for a, s in attacks)


@given(RECORDS)
@settings(max_examples=150)
def test_curves_and_counts(rows: list[Record]) -> None:
    columns, read, right = Columns.of(rows), usable(rows), recognised_before(rows)
    assert confusions(columns) == Counter((r.label, r.adversarial_prediction) for r in right)

    tried: dict[str, dict[str, list[bool]]] = {}
    for r in rows:
        for codec, success in zip(r.codecs, r.codec_success, strict=True):
            tried.setdefault(codec, {}).setdefault(r.sample_id, []).append(success)
    shares = {codec: wilson(math.fsum(map(fmean, own.values())), len(own)) for codec, own in tried.items()}
    assert success_after_codecs(columns) == shares
    assert list(success_after_codecs(columns)) == list(tried)

    taken = (len(r.loss_trace) if r.steps is None else r.steps for r in read)
    steps = max((max(steps, r.first_success_step) for steps, r in zip(taken, read, strict=True)), default=-1)
    turned = [r.first_success_step for r in read if r.success and r.first_success_step >= 0]
    standing = [(len(read) - sum(t <= step for t in turned)) / len(read) for step in range(steps + 1)]
    assert standing_by_step(columns) == standing

    means = []
    for step in range(max((len(r.loss_trace) for r in right), default=0)):
        seen = [[v for v in r.loss_trace[: step + 1] if math.isfinite(v)] for r in right]
        means.append(fmean(own[-1] for own in seen if own) if any(seen) else math.nan)
    assert same(mean_loss(columns), means)


@given(RECORDS, st.integers(0, 3))
def test_chosen_rows_are_the_records(rows: list[Record], label: int) -> None:
    everything = Columns.of(rows)
    chosen = everything.where(everything.label != label)
    expected = [r for r in rows if r.label != label]
    assert len(chosen) == len(expected)
    assert list(map(repr, chosen.records())) == list(map(repr, expected))
    codecs, of = chosen.flattened("codecs")
    assert [(row, codec) for row, r in enumerate(expected) for codec in r.codecs] == list(zip(of, codecs, strict=True))
    groups = {key: own.records() for key, own in chosen.groups("attack", "eps").items()}
    assert repr(groups) == repr(group(expected, lambda r: (r.attack, r.eps)))
    with pytest.raises(AttributeError):
        _ = chosen.colour


def test_an_item_that_two_files_have_is_read_once_and_items_are_in_order(tmp_path: Path) -> None:
    def row(item: str, sample: str) -> Record:
        return Record(sample, 0, "pgd", 0.1, "none", 0, 0, 0, False, -1, 1, 1, 0.1, 0.1, 1.0, 1.0, 1.0, 1, item=item)

    old, new = [row("2", "x"), row("1", "b"), row("1", "a")], [row("2", "d"), row("2", "c"), row("10", "e")]
    for name, rows in (("early", old), ("late", new)):
        write_shard(shard(tmp_path, name), rows)
    assert [r.sample_id for r in read_records(tmp_path)] == ["b", "a", "e", "d", "c"]
    assert read_records(tmp_path / "nothing") == []


@pytest.mark.parametrize(
    ("lacking", "digest"),
    [
        (["audio_snr_db", "audio_relative_db", "steps", "trace_steps"], b"08728b989aace7728d6a1cd79b00c305"),
        (["steps", "trace_steps"], b"586d3466a9149b280f5402da6cbf45a9"),
    ],
)
def test_files_of_early_versions_lack_columns(tmp_path: Path, lacking: list[str], digest: bytes) -> None:
    item = "0000000-001"
    plain = Record(
        "a", 0, "pgd", 0.1, "none", 0, 0, 0, False, -1, 1, 1, 0.1, 0.1, 1.0, 1.0, 1.0, 1, item=item,
        loss_trace=[0.5, math.nan], codecs=["mjpeg:5"], codec_success=[True],
    )  # fmt: skip
    rows = [plain, replace(plain, sample_id="b", margin=1.5)]
    signature = {b"robustvideo_items": b'["0000000-001"]', b"robustvideo_digest": digest}
    early = table_of(rows).drop_columns(lacking)
    path = shard(tmp_path, item)
    path.parent.mkdir()
    pq.write_table(early.replace_schema_metadata(signature), path)
    later = [replace(plain, item="0000000-002", audio_snr_db=20.5, steps=7), replace(plain, item="0000000-002")]
    write_shard(shard(tmp_path, "0000000-002"), later)
    assert repr(read_records(tmp_path, unsigned=False)) == repr(rows + later)
    columns = Columns.of_table(read_table(tmp_path))
    assert np.isnan(columns.audio_snr_db).tolist() == [True, True, False, True]
    assert np.isnan(columns.steps).tolist() == [True, True, False, True]
    merge_shards(tmp_path)
    assert repr(read_records(tmp_path)) == repr(rows + later)


@pytest.mark.parametrize("column", ["audio_snr_db", "steps"])
@pytest.mark.parametrize("value", [None, 0, 7])
def test_a_value_that_was_lost_or_made_up_is_noticed(tmp_path: Path, column: str, value: int | None) -> None:
    """The values of a column that may be missing are signed, and so is which of them are."""
    rows = [replace(Record("a", 0, "pgd", 0.1, "none", 0, 0, 0, False, -1, 1, 1, 0.1, 0.1, 1.0, 1.0, 1.0, 1), item="i")]
    path = shard(tmp_path, "i")
    write_shard(path, [replace(row, **{column: value}) for row in rows])  # type: ignore[arg-type]
    metadata = pq.read_schema(path).metadata
    for other in {None, 0, 7} - {value}:
        forged = table_of([replace(row, **{column: other}) for row in rows])  # type: ignore[arg-type]
        pq.write_table(forged.replace_schema_metadata(metadata), path)
        with pytest.raises(InputError, match="damaged"):
            read_records(tmp_path)
