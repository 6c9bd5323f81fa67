"""`Study`: a table of a paper as YAML, at several scales.

.. code-block:: yaml

    title: "Adversarial training: budget and step size"
    source: {paper: "Kinfu and Vidal 2022", place: "table 1", setting: "UCF101, 3D ResNeXt-101"}
    base: {epochs: 5, batch_size: 32, lr: 0.003, ...}          # a training recipe; rows build on it
    evaluation: {data: "embedded:kinetic?split=test&clips=128", batch_size: 32, precision: bf16}
    rows:
      benign: {name: Benign, recipe: {model: "embedded:r3d?weights=none"}, paper: [92.3, 2.65]}
      at:     {name: "AT(8, 8)", recipe: {model: "trained:{benign}", training: "at(...)"}, paper: [64.1, 39.9]}
    columns:
      - {name: clean}
      - {name: "eps 4", attacks: ["pgd(eps=4/255, steps=5)"]}
    claims:
      - {text: "Training under attack helps", better: at, worse: benign, columns: ["eps 4"]}
    scales:
      smoke: {base: {epochs: 1}}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, model_validator

from robustvideo.errors import InputError, unknown
from robustvideo.packaged import read_yaml, recipes
from robustvideo.spec import parse_value

SCALES = ("smoke", "embedded", "small", "full")
"""From minutes on procedural clips, over half an hours on them and on small real data, to the paper's own."""


def _fraction(value: Any) -> Any:
    return parse_value(value) if isinstance(value, str) else value


Fraction = Annotated[float, BeforeValidator(_fraction)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Strict):
    """Where the table is printed.

    Attributes:
        paper: authors and year.
        place: "table 1".
        setting: the paper's data and networks.
    """

    paper: str
    place: str
    setting: str = ""


class Evaluation(_Strict):
    """How every row is measured.

    Attributes:
        data: data spec of the test clips.
        batch_size: clips per batch.
        precision: type of the attacks' gradient passes.
        seed: seeds every random draw.
        eps: budget of the attacks where neither they nor their column or row name one. Default 8/255.
    """

    data: str
    batch_size: int = Field(default=16, ge=1)
    precision: str = "fp32"
    seed: int = 0
    eps: Fraction = 8 / 255


class Setting(_Strict):
    """Under what a cell is measured: what its column says, and where the column says nothing, what its row says.

    Attributes:
        model: spec of the model. Default: what the row trained.
        crafted_on: spec of the model to craft the clips on, instead of on the model itself: gray-box and transfer.
            "none" in a column takes back what a row says.
        defense: spec of a defence in front of the model. "none" likewise.
        gradient: how gradients pass the defence: "bpda", "exact", "surrogate" or "none". Default: as it says itself.
        eps: budget of the attacks that name none. Default: the evaluation's.
        attacks: specs, averaged clip by clip. Default: none, the undisturbed clips.
    """

    model: str | None = None
    crafted_on: str | None = None
    defense: str | None = None
    gradient: Literal["bpda", "exact", "surrogate", "none"] | None = None
    eps: Fraction | None = None
    attacks: list[str] | None = None

    @property
    def specs(self) -> list[str]:
        """Every spec that it says, with its ``{key}``."""
        said = [self.model, self.crafted_on, self.defense, *(self.attacks or ())]
        return [spec for spec in said if spec is not None]


class Network(_Strict):
    """A network that rows need, trained without a row of its own.

    Attributes:
        recipe: what its training changes in the study's base.
        share: see `Row`.
    """

    recipe: dict[str, Any]
    share: str | None = None


class Row(Setting):
    """A model of the table, or an attack. ``{key}`` in a spec, or in a recipe's training, stands for the weights of the
    row of that key, or for what the study gives under that key.

    Attributes:
        name: as the paper prints it.
        recipe: what its training changes in the study's base; None for a row that is not trained.
        share: name under which the studies of one folder train a recipe only once. Default: every study trains its
            own rows.
        skip: names of columns that do not apply, such as attacks on a router that a model does not have.
        paper: the paper's numbers by column; shares in percent.
        note: anything a reader must know about the row.
    """

    name: str
    recipe: dict[str, Any] | None = None
    share: str | None = None
    skip: list[str] = Field(default_factory=list)
    paper: list[float | None] = Field(default_factory=list)
    note: str = ""


class Column(Setting):
    """A measurement.

    Attributes:
        name: as the paper prints it.
        measure: of `robustvideo.reproduction.outcomes.MEASURES`. Default: accuracy.
    """

    name: str
    measure: Literal[
        "accuracy",
        "error_rate",
        "fooling_rate",
        "iterations",
        "linf",
        "l2",
        "l21",
        "ssim",
        "dissimilarity",
        "aap_l21",
        "aap_ssim",
        "frames_touched",
        "gradients",
        "seconds",
    ] = "accuracy"


def _several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _plain(keys: list[str]) -> str | list[str]:
    return keys[0] if len(keys) == 1 else keys


Keys = Annotated[list[str], BeforeValidator(_several), PlainSerializer(_plain), Field(min_length=1)]
"""Keys of rows; one alone is read and written as it is."""


class Claim(_Strict):
    """What the paper concludes: one row is better than another, on average over some columns of one measure.

    Better is a larger share (accuracy, fooling rate) and a smaller cost (iterations, distances, seconds).

    Attributes:
        text: the conclusion.
        better, worse: keys of rows, each of one or of several to be averaged over; the same row twice compares
            attacks, with ``against``.
        columns: names of columns.
        against: names of the columns that the worse row is measured by. Default: ``columns``.
        margin: by how much the better one may even be worse: "within 2 points" is 0.02. Default 0.
    """

    text: str
    better: Keys
    worse: Keys
    columns: list[str] = Field(min_length=1)
    against: list[str] = Field(default_factory=list)
    margin: float = Field(default=0.0, ge=0)


class Study(_Strict):
    """A table to reproduce; see the module.

    Attributes:
        title: what it is about.
        source: where it is printed.
        base: the training recipe that rows build on.
        evaluation: how rows are measured.
        given: by key, in order, what specs may refer to: a text that stands for itself, such as a spec or a number of
            steps that scales change, or a network to train, which stands for ``trained:FILE``.
        rows: by key, in order; a row may refer to rows before it, and to any that a column names: these train first.
        columns: in order.
        claims: what the paper concludes from the table.
    """

    title: str
    source: Source
    base: dict[str, Any] = Field(default_factory=dict)
    evaluation: Evaluation
    given: dict[str, str | Network] = Field(default_factory=dict)
    rows: dict[str, Row] = Field(min_length=1)
    columns: list[Column] = Field(min_length=1)
    claims: list[Claim] = Field(default_factory=list)

    @model_validator(mode="after")
    def _refers_to_what_there_is(self) -> Study:
        names = [column.name for column in self.columns]
        if both := sorted(set(self.given) & set(self.rows)):
            raise ValueError(f"{both[0]} is given and a row as well: take another key")
        if len(set(names)) < len(names):
            raise ValueError("two columns have the same name")
        for key, row in self.rows.items():
            if row.recipe is None and row.model is None and any(c.model is None for c in self.columns):
                raise ValueError(f"row {key} needs a recipe or a model")
            if missing := sorted(set(row.skip) - set(names)):
                raise ValueError(f"row {key} skips column {missing[0]!r}, which is not there")
            if row.paper and len(row.paper) != len(names):
                raise ValueError(f"row {key} has {len(row.paper)} numbers of the paper for {len(names)} columns")
        self._is_trained_in_order()
        for claim in self.claims:
            for key in (*claim.better, *claim.worse):
                if key not in self.rows:
                    raise ValueError(f"a claim names row {key!r}, which is not there")
            for name in (*claim.columns, *claim.against):
                if name not in names:
                    raise ValueError(f"a claim names column {name!r}, which is not there")
            if len({c.measure for c in self.columns if c.name in (*claim.columns, *claim.against)}) > 1:
                raise ValueError(f"the claim {claim.text!r} compares different measures")
        return self

    @property
    def asked_by_columns(self) -> list[str]:
        """Keys of the trained rows that columns name: every row needs them, also one that stands before them."""
        asked = {key for column in self.columns for key in _named(column.specs)}
        return [key for key, row in self.rows.items() if row.recipe is not None and key in asked]

    def compares_networks(self, claim: Claim) -> bool:
        """Whether a claim sets different networks side by side, and not attacks or defences on the same ones."""
        if all(column.model for column in self.columns if column.name in (*claim.columns, *claim.against)):
            return False
        better, worse = ({self._network(key) for key in keys} for keys in (claim.better, claim.worse))
        return better != worse

    def _network(self, key: str) -> str | None:
        row = self.rows[key]
        return f"trained:{{{key}}}" if row.recipe is not None else row.model

    def _is_trained_in_order(self) -> None:
        known: set[str] = set()

        def check(specs: list[str], where: str) -> None:
            if late := [key for key in _named(specs) if key not in known]:
                raise ValueError(f"{where} refers to {late[0]!r}, which is not trained before it, and not given")

        def learn(key: str, trained: Row | Network) -> None:
            content = {**self.base, **(trained.recipe or {})}
            check([str(content.get("model", "")), str(content.get("training", ""))], f"the recipe of {key}")
            known.add(key)

        for key, given in self.given.items():
            if isinstance(given, Network):
                learn(key, given)
            known.add(key)
        for key in self.asked_by_columns:
            learn(key, self.rows[key])
        for key, row in self.rows.items():
            if row.recipe is not None:
                learn(key, row)
            check(row.specs, f"row {key}")
        for column in self.columns:
            check(column.specs, f"column {column.name}")


def _named(specs: list[str]) -> list[str]:
    return [key for spec in specs for key in re.findall(r"\{(\w+)\}", spec)]


def load_study(path: Path, scale: str) -> Study:
    """Read a study from YAML, or a packaged one by its name, such as ``video_at/table1``, at one of its scales.

    One that says ``extends: NAME`` is laid over that other file, with which it shares everything that it does not name.
    A row that is null at a scale is left out there, and so are the claims that name it.

    Raises:
        InputError: no such study or scale, not YAML, a misspelt key, or a value out of range.
    """
    content = read_yaml(path, "study")
    if isinstance(content, dict) and "extends" in content:
        common = read_yaml(Path(content.pop("extends")), "study")
        content = merged(common, content)
    if not isinstance(content, dict) or "rows" not in content:
        raise InputError(f"{path} is no study: it must be a mapping with rows, columns and evaluation.")
    content = dict(content)
    scales = content.pop("scales", {})
    if scale not in scales:
        raise unknown(f"scale of {path}:", scale, scales)
    changes = scales[scale] or {}
    content = merged(content, changes)
    rows, claims = changes.get("rows"), content.get("claims")
    if isinstance(rows, Mapping) and isinstance(claims, list):
        left_out = {key for key, row in rows.items() if row is None}
        content["claims"] = [claim for claim in claims if not left_out & _rows_of(claim)]
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: {place + ': ' if place else ''}{first['msg'].lower()}.") from error


def _rows_of(claim: object) -> set[str]:
    """The rows of a claim as it stands in a file."""
    if not isinstance(claim, Mapping):
        return set()
    sides = (claim.get(side) for side in ("better", "worse"))
    return {str(row) for side in sides for row in (side if isinstance(side, list) else [side])}


def studies_in(folder: Path | None) -> list[Path]:
    """Names for `load_study`, in order: the studies of a folder on disk, or of a packaged one such as ``video_at``.

    Files below a folder on disk count as well. A file that is not YAML is among them, for whoever loads it to refuse.

    Args:
        folder: None for all packaged studies.

    Returns:
        None at all for what is no folder.

    Raises:
        InputError: a folder on disk without a study.
    """
    if folder is not None and folder.is_dir():
        found = sorted(path for pattern in ("*.yaml", "*.yml") for path in folder.rglob(pattern) if _is_study(path))
        if not found:
            raise InputError(f"{folder} has no study: a study is a YAML file with rows, columns and evaluation.")
        return found
    packaged = [Path(name) for name in recipes()]
    return [name for name in packaged if folder in (None, *name.parents[:-1]) and _is_study(name)]


def _is_study(path: Path) -> bool:
    try:
        content = read_yaml(path, "study")
    except InputError:
        return True
    return isinstance(content, dict) and bool({"rows", "extends"} & set(content))


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` laid over it; mappings are merged, everything else is replaced; null removes a key."""
    result = dict(base)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result
