"""`Suite`: models x defences x attacks x budgets over a data set, in YAML.

.. code-block:: yaml

    models: [embedded:r3d, embedded:r3d_at]
    defenses: [none, jpeg(quality=50)]
    data: embedded:kinetic?split=test&clips=64
    attacks: [noise, fgsm, pgd(steps=20)]
    eps: [1/255, 2/255, 4/255, 8/255]
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from robustvideo.errors import InputError, unknown
from robustvideo.packaged import read_yaml
from robustvideo.spec import Call, parse_call, parse_value

if TYPE_CHECKING:
    from robustvideo.attacks import Attack
    from robustvideo.purification import Purifier


def _fraction(value: Any) -> Any:
    return parse_value(value) if isinstance(value, str) else value


class Suite(BaseModel):
    """What to evaluate.

    Attributes:
        title: heading of the report.
        models: model specs; several make one run each, and a comparison.
        data: the data set's spec.
        attacks: attack specs. One that does not name its budget is run at every one of ``eps``.
        defenses: specs of purifiers to put in front of every model, each in turn; "none" is the model as it is.
            Default: only that.
        eps: budgets as fractions of the range, for attacks that do not name theirs; an attack whose budget is by
            default something else keeps its default. Default: 8/255.
        transfer_from: model specs to craft the clips on, instead of on each model itself.
        codecs: re-encodings after which every clip is classified once more, e.g. ``h264:23``, ``mjpeg:5``.
        seed: seeds every random draw, together with each clip's id.
        batch_size: clips per batch, at least 1. The batches are fixed by it, whoever executes them.
        precision: type of the attacks' gradient passes, for attacks that do not name theirs.
        save_clips: number of clips, spread evenly over the data, whose videos are saved and shown.
        trust: examine whether the numbers may be believed (`robustvideo.evaluation.trust`), which costs a few attacks
            on 8 clips behind every defence. Default: where there is a defence.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str = "Robustness report"
    models: list[str] = Field(min_length=1)
    data: str
    attacks: list[str] = Field(min_length=1)
    defenses: list[str] = Field(default=["none"], min_length=1)
    eps: list[Annotated[float, BeforeValidator(_fraction)]] = Field(default=[8 / 255], min_length=1)
    transfer_from: list[str] = Field(default_factory=list)
    codecs: list[str] = Field(default_factory=list)
    seed: int = 0
    batch_size: int = Field(default=8, ge=1)
    precision: str | None = None
    save_clips: int = Field(default=12, ge=0)
    trust: bool | None = None

    @property
    def examined(self) -> bool:
        """Whether the runs are examined: as ``trust`` says, else where there is a defence."""
        return any(text.strip() != "none" for text in self.defenses) if self.trust is None else self.trust

    @property
    def uses_eps(self) -> bool:
        """Whether any attack is run at ``eps``.

        Raises:
            InputError: an attack that is no spec, or is unknown.
        """
        return not all(_has_own_budget(parse_call(text)) for text in self.attacks)

    def build_attacks(self) -> list[Attack]:
        """Every attack at every budget it is to be run at, with the suite's seed and precision.

        Raises:
            InputError: an unknown attack, a misspelt parameter, a value out of range, or the same attack twice.
        """
        from robustvideo.attacks import attacks

        built = []
        for text in self.attacks:
            call = parse_call(text)
            own = dict(call.arguments)
            own.setdefault("seed", self.seed)
            if self.precision is not None:
                own.setdefault("precision", self.precision)
            budgets = [{}] if _has_own_budget(call) else [{"eps": e} for e in self.eps]
            built += [attacks.build(Call(call.name, {**own, **budget})) for budget in budgets]
        _check_unlike("attack", [attack.spec for attack in built])
        return built

    def build_defenses(self) -> list[Purifier | None]:
        """Every defence, with the suite's seed; None is the model as it is.

        Raises:
            InputError: an unknown defence, a misspelt parameter, a value out of range, or the same defence twice.
        """
        from robustvideo.purification import defenses

        built: list[Purifier | None] = []
        for text in self.defenses:
            if text.strip() == "none":
                built.append(None)
                continue
            call = parse_call(text)
            built.append(defenses.build(Call(call.name, {"seed": self.seed, **call.arguments})))
        _check_unlike("defense", ["none" if purifier is None else purifier.spec for purifier in built])
        return built


def _has_own_budget(attack: Call) -> bool:
    """Whether the budgets of a suite are not this attack's: it names one, or measures another thing by default."""
    from robustvideo.attacks import attacks

    return bool({"eps", "threat"} & attack.arguments.keys()) or not _measured_in_pixels(attacks.get(attack.name))


def _measured_in_pixels(attack: type[Attack]) -> bool:
    """Whether an attack's budget is by default how far values may move; that of `deepsava` is a loss of structure."""
    from robustvideo.threat import Linf, Part

    (threat,) = (field.default for field in fields(attack) if field.name == "threat")
    return isinstance(threat, Linf) or not isinstance(threat, Part)


def _check_unlike(kind: str, specs: list[str]) -> None:
    for number, spec in enumerate(specs):
        if spec in specs[:number]:
            raise InputError(f"The {kind} {spec} is listed twice.")


def load_suite(path: Path) -> Suite:
    """Read a suite from a YAML file, or a packaged one by its name, such as ``suites/strength``.

    Raises:
        InputError: no such file, not YAML, a recipe or a study, a misspelt key, or a value out of range.
    """
    content = read_yaml(path, "suite")
    for (kind, command), keys in _OTHER_FILES.items():
        if isinstance(content, dict) and keys <= content.keys():
            raise InputError(f"{path} is a {kind}, not a suite: robustvideo {command} {path}.")
    return make_suite(content, str(path))


def default_suite() -> Suite:
    """The embedded suite: procedural clips, embedded weights, about two minutes on two cores."""
    return load_suite(Path("demo"))


def make_suite(content: Any, name: str) -> Suite:
    """Validate a suite.

    Raises:
        InputError: a misspelt key, an unknown codec, or a value missing or out of range, naming the place.
    """
    if not isinstance(content, dict):
        raise InputError(f"{name} must be a mapping with models, data and attacks.")
    for key in content:
        if key not in Suite.model_fields:
            raise unknown("suite key", str(key), Suite.model_fields)
    try:
        suite = Suite.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise InputError(f"{name}: {_MISSING[place]}") from error
        raise InputError(f"{name}: {place}: {first['msg'].lower()}.") from error
    if suite.codecs:
        from robustvideo.data.codec import parse_codec

        for codec in suite.codecs:  # before a run directory is made that no other spelling could use
            parse_codec(codec)
    return suite


_OTHER_FILES = {
    ("training recipe", "train"): {"model", "epochs"},
    ("study", "reproduce"): {"rows", "columns"},
}
"""What else is written in YAML, the command that takes it, and the keys that tell."""

_MISSING = {
    "models": "name the model, models: [embedded:r3d] in a suite, --model SPEC on the command line.",
    "data": "name the clips, data: manifest:clips.csv in a suite, --data SPEC on the command line.",
    "attacks": "name the attacks, attacks: [pgd] in a suite, --attack SPEC on the command line.",
}
