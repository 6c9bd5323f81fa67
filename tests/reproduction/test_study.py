"""Studies: what a YAML file says at each scale, and what it may not say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from robustvideo.attacks import load_attack
from robustvideo.data import load_data
from robustvideo.errors import InputError
from robustvideo.packaged import recipes
from robustvideo.purification import load_defense
from robustvideo.reproduction.reproduce import filled
from robustvideo.reproduction.study import SCALES, load_study, merged
from robustvideo.training.method import load_training

STUDY: dict[str, Any] = {
    "title": "t",
    "source": {"paper": "p", "place": "table 1"},
    "base": {"epochs": 3, "data": {"train": "a", "val": "b"}},
    "evaluation": {"data": "d"},
    "rows": {"one": {"name": "One", "model": "embedded:r3d", "paper": [1.0]}, "two": {"name": "Two", "recipe": {}}},
    "columns": [{"name": "clean"}],
    "claims": [{"text": "c", "better": "one", "worse": "two", "columns": ["clean"]}],
    "scales": {"smoke": {"base": {"epochs": 1, "data": {"train": "x"}}}, "full": None},
}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**STUDY, **changes}))
    return path


def test_a_scale_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert load_study(path, "full").base == STUDY["base"]
    assert load_study(path, "smoke").base == {"epochs": 1, "data": {"train": "x", "val": "b"}}


def test_claims_go_with_the_rows_that_a_scale_leaves_out(tmp_path: Path) -> None:
    kept = {"text": "d", "better": "one", "worse": "one", "columns": ["clean"]}
    listed = {"text": "e", "better": ["one", "two"], "worse": "one", "columns": ["clean"]}
    claims = [*STUDY["claims"], kept, listed]
    path = written(tmp_path, claims=claims, scales={"smoke": {"rows": {"two": None}}, "full": None})
    assert [claim.text for claim in load_study(path, "smoke").claims] == ["d"]
    assert [claim.text for claim in load_study(path, "full").claims] == ["c", "d", "e"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"claims": [{"text": "c", "better": "on", "worse": "two", "columns": ["clean"]}]}, "names row 'on'"),
        ({"claims": [{"text": "c", "better": "one", "worse": "two", "columns": ["x"]}]}, "names column 'x'"),
        ({"rows": {"one": {"name": "One"}}, "claims": []}, "row one needs a recipe or a model"),
        ({"rows": {"one": {"name": "O", "model": "m", "paper": [1, 2]}}, "claims": []}, "2 numbers .* for 1 columns"),
        ({"columns": [{"name": "clean"}, {"name": "clean"}]}, "same name"),
        ({"collumns": []}, "collumns: extra inputs"),
    ],
)
def test_what_does_not_fit_together_is_said(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_study(written(tmp_path, **changes), "full")


def test_an_unknown_scale(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'smoke'"):
        load_study(written(tmp_path), "smok")


def test_merging_removes_what_is_null() -> None:
    assert merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": None}, "d": {"e": 4}}) == {"a": {"c": 2}, "d": {"e": 4}}


STUDIES = [name for name, file in recipes().items() if "rows" in yaml.safe_load(file.read_text())]


@pytest.mark.parametrize("name", STUDIES)
def test_every_packaged_study_has_every_scale_and_names_things_that_exist(name: str) -> None:
    for scale in SCALES:
        study = load_study(Path(name), scale)
        given = {key: text if isinstance(text, str) else f"trained:{key}" for key, text in study.given.items()}
        given |= {key: f"trained:{key}" for key in study.rows}
        for setting in (*study.columns, *study.rows.values()):
            for attack in setting.attacks or ():
                load_attack(filled(attack, given))
            if setting.defense not in (None, "none"):
                load_defense(filled(setting.defense, given))
        for row in study.rows.values():
            if row.recipe is not None:
                load_training(filled(str({**study.base, **row.recipe}.get("training", "standard")), given))


@pytest.mark.parametrize("name", STUDIES)
def test_no_study_chooses_its_epoch_on_the_test_clips(name: str, fake_ucf101: Path) -> None:
    """The studies on UCF101, at the paper's scale, against lists with the official names."""
    study = load_study(Path(name), "full")
    networks = [given for given in study.given.values() if not isinstance(given, str)]
    recipes = [merged(study.base, trained.recipe or {}) for trained in (*study.rows.values(), *networks)]
    for data in (recipe.get("data", {}) for recipe in recipes):
        if not str(data.get("val", "")).startswith("ucf101:"):
            continue
        train, val, test = (
            {sample.id for sample in load_data(spec).samples}
            for spec in (data["train"], data["val"], study.evaluation.data)
        )
        assert [len(part) for part in (train, val, test)] == [6, 4, 4]
        assert len(train | val | test) == 14


@pytest.fixture(scope="module")
def fake_ucf101(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two classes of five groups to train on and two to test, as lists without videos."""
    folder = tmp_path_factory.mktemp("data")
    lists = folder / "UCF-101/ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_text("1 Biking\n2 Diving\n")
    for kind, groups in (("train", range(8, 13)), ("test", range(1, 3))):
        lines = [f"{c}/v_{c}_g{g:02d}_c01.avi 1" for c in ("Biking", "Diving") for g in groups]
        (lists / f"{kind}list01.txt").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROBUSTVIDEO_DATA", str(folder))
        yield folder


def test_a_study_shares_what_another_file_says(tmp_path: Path) -> None:
    common = tmp_path / "common.yaml"
    common.write_text(yaml.safe_dump({"given": {"steps": "5", "flow": "dis"}, "scales": {"smoke": {"base": {"a": 1}}}}))
    path = tmp_path / "own.yaml"
    own = {key: value for key, value in STUDY.items() if key != "scales"}
    path.write_text(yaml.safe_dump({**own, "extends": str(common), "given": {"steps": "7"}}))
    study = load_study(path, "smoke")
    assert study.given == {"steps": "7", "flow": "dis"}
    assert study.base["a"] == 1
