"""The leaderboard: a static site of models, defences and threat models, from validated run directories."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from robustvideo.errors import InputError, RunConflict
from robustvideo.evaluation.columns import Columns
from robustvideo.evaluation.metrics import Interval
from robustvideo.evaluation.records import CLEAN
from robustvideo.evaluation.run import now, places, runs_in
from robustvideo.evaluation.runner import NO_DEFENSE
from robustvideo.evaluation.validated import validated
from robustvideo.purification import answering
from robustvideo.report.page import build_report, fill
from robustvideo.report.series import Budget, Series, by_defense, class_names, headline_budget
from robustvideo.report.trust import SYMBOLS, trust_tables
from robustvideo.report.wording import NOTHING, budget, norm_name
from robustvideo.storage import is_temporary, place, slug, write_text

UNEXAMINED = "not examined"

_TITLE = "Robustness leaderboard"

_WORST_FIRST = ("fail", "warn", UNEXAMINED, "pass")


@dataclass(frozen=True)
class Entry:
    """A model behind a defence.

    Attributes:
        series: its records from all of its runs, in which every attack counts.
        cells: robust accuracy under each threat model of its table, the worst case per clip; None where it was not run.
        verdict: of the trust checks: "pass", "warn", "fail" or "not examined"; the worst of its runs.
        symbol, checks: a sign for the verdict, and what it consists of in words.
        attacks: titles of the attacks at the budget the table is sorted by, the strongest first.
        pages: names and addresses of its runs' reports.
    """

    series: Series
    cells: tuple[Interval | None, ...]
    verdict: str
    symbol: str
    checks: str
    attacks: tuple[str, ...]
    pages: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Table:
    """Entries on the same clips.

    Attributes:
        data: the data's spec.
        clips: their number.
        threats: names of the threat models, the columns.
        chosen: place of the one that the table is sorted by at first.
        entries: the rows.
    """

    data: str
    clips: int
    threats: tuple[str, ...]
    chosen: int
    entries: tuple[Entry, ...]


def build_leaderboard(runs: str | Path | Iterable[str | Path], out: str | Path) -> Path:
    """Write ``index.html`` and a report of every run into a folder.

    Runs of the same weights behind the same defence on the same clips are one entry: a clip stands only if it stands
    in all of them. How gradients passed the defence is the attacks' matter: a purifier under BPDA and under its exact
    gradient is one entry. Different clips make different tables.

    Args:
        runs: a run directory or several, or their addresses, each finished and intact; or directories with the runs of
            several models.
        out: the site's folder: new, empty, or that of an earlier leaderboard, whose files are replaced.

    Returns:
        The index.

    Raises:
        InputError: no run, one given twice, or one that is unfinished or damaged.
        RunConflict: a run written by a newer version, or a folder of other files.
        RobustVideoError: the site cannot be written.
    """
    given, site = runs_in(places(runs)), place(out)
    if not given:
        raise InputError("There is no run to rank: give at least one run directory.")
    names = [str(path.resolve()) for path in given]
    if len(set(names)) < len(names):
        raise InputError("A run is given twice: name every run directory once.")
    _check_folder(site)
    known = [one for path in given for one in _series(path)]
    pages = {name: f"runs/{slug(name)}.html" for name in names}
    groups: dict[tuple[str, str], list[Series]] = {}
    for one in known:
        facts = one.run.manifest.configuration
        groups.setdefault((str(facts.get("data")), str(facts.get("data_fingerprint"))), []).append(one)
    tables = [_table(data, members, pages) for (data, _), members in groups.items()]
    index = site / "index.html"  # first, so that a folder that was left half-way is known for what it is
    write_text(index, fill("leaderboard.html.j2", title=_TITLE, tables=tables, date=now()))
    for path, name in zip(given, names, strict=True):
        build_report([path], site / pages[name])
    return index


def _check_folder(site: Path) -> None:
    """Refuse a folder with other files than those of a leaderboard, whose index says so."""
    index = site / "index.html"
    if site.exists() and not site.is_dir():
        raise InputError(f"{site} is a file: name a folder for the leaderboard.")
    if index.is_file():
        text = index.read_text(encoding="utf-8", errors="replace")
        if all(mark in text for mark in ('<meta name="generator" content="robustvideo ', f"<title>{_TITLE}</title>")):
            return
    if site.is_dir() and any(not is_temporary(path) for path in site.iterdir()):
        raise RunConflict(f"{site} is not empty and is not a leaderboard: choose another --out.")


def _series(path: Path) -> list[Series]:
    run, rows = validated(path)
    return [Series("", run, defense, class_names(run), own) for defense, own in by_defense(rows).items()]


def _table(data: str, members: Sequence[Series], pages: dict[str, str]) -> Table:
    groups: dict[tuple[str, str, str], list[Series]] = {}
    for one in members:
        facts = one.run.manifest.configuration
        weights = {str(name): str(digest) for name, digest in facts.get("defenses", [])}.get(one.defense, "")
        groups.setdefault((str(facts.get("model_digest")), _itself(one.defense), weights), []).append(one)
    merged = [_merged(own) for own in groups.values()]
    threats = sorted({threat for one in merged for threat in one.unions})
    chosen = headline_budget(merged)
    assert chosen is not None, "a validated run has an attack"
    entries = [_entry(one, own, threats, chosen, pages) for one, own in zip(merged, groups.values(), strict=True)]
    column = threats.index(chosen)
    entries.sort(key=lambda entry: -cell.estimate if (cell := entry.cells[column]) else 1.0)
    names = tuple(f"{norm_name(norm)} {budget(eps, norm)}" for norm, eps in threats)
    return Table(data, max(one.clips for one in merged), names, column, tuple(entries))


def _itself(defense: str) -> str:
    """A defence's spec without what only says how an attack's gradient passes it."""
    return defense if defense == NO_DEFENSE else answering(defense)


def _merged(own: Sequence[Series]) -> Series:
    first = own[0]
    if len({one.defense for one in own}) == 1:
        tables, defense = [one.rows.table() for one in own], first.defense
    else:
        tables, defense = [_attacked_through(one) for one in own], _itself(first.defense)
    rows = Columns.of_table(pa.concat_tables(tables))
    return Series(str(first.run.manifest.model.get("spec", "")), first.run, defense, first.labels, rows)


def _attacked_through(one: Series) -> pa.Table:
    """A series' rows, whose attacks say which defence their gradients saw, and whose defence no longer does."""
    table = one.rows.table()
    attacks = [attack if attack == CLEAN else f"{attack} on {one.defense}" for attack in one.rows.attack.tolist()]
    for name, values in (("attack", attacks), ("defense", [_itself(one.defense)] * len(attacks))):
        table = table.set_column(table.column_names.index(name), name, pa.array(values, table.schema.field(name).type))
    return table


def _entry(
    one: Series, own: Sequence[Series], threats: Sequence[Budget], chosen: Budget, pages: dict[str, str]
) -> Entry:
    own_runs = dict.fromkeys(member.run.path.resolve() for member in own)  # a run may hold two gradient modes
    found = [(table.verdict, table.summary) for table in trust_tables(own)]
    if len(found) < len(own):
        found.append((UNEXAMINED, ""))
    verdict, checks = min(found, key=lambda pair: _WORST_FIRST.index(pair[0]))
    cells = tuple(one.unions[t].robust_accuracy if t in one.unions else None for t in threats)
    return Entry(
        one,
        cells,
        verdict,
        next((symbol for grade, symbol in SYMBOLS.items() if grade == verdict), NOTHING),
        checks,
        tuple(summary.title for summary in one.at(chosen)),
        tuple((path.name, pages[str(path)]) for path in own_runs),
    )
