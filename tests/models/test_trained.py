"""Files that training wrote name their own network."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model, Purified
from robustvideo.models import load_model
from robustvideo.models.generator import BehindGenerator
from robustvideo.models.multi_bn import MultiBN
from robustvideo.models.trained import self_contained
from robustvideo.training.export import export, rounded
from robustvideo.training.recipe import make_recipe

LABELS = ("circle", "square", "star", "cross", "dot")
TINY = Path(__file__).parents[1] / "training" / "tiny.py"


def written(path: Path, spec: str, labels: tuple[str, ...] = LABELS, precision: Any = "fp32") -> Model:
    """What training would leave of a model: every weight is another than those it is built with."""
    model = load_model(spec, num_classes=len(labels))
    random = torch.Generator().manual_seed(5)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=random) * 0.2 + 0.1)
    content = {"title": "t", "model": spec, "data": {"train": "a", "val": "b"}, "epochs": 1, "batch_size": 1, "lr": 1}
    export(path, rounded(model.state_dict(), precision), make_recipe(content, "t"), labels, {})
    return model


def same(a: Model, b: Model) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    "spec",
    [
        "r3d_small",
        "embedded:cnn_lstm?weights=none",
        "torchvision:mc3_18?size=32&frames=4",
        "r2plus1d_small?with=oud(after='module.2')",
        "r2plus1d_small?with=[oud(), ape_gan(width=4)]",
        "r3d_small?with=multi_bn(branches=3)",
        "resnext3d_101?blocks=[1,1,1,1]&size=32",
    ],
)
def test_a_network_is_rebuilt_and_filled(spec: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = written(path, spec)
    loaded = load_model(f"trained:{path}")
    assert same(loaded, model)
    assert loaded.labels == LABELS
    assert not loaded.training


def test_no_other_weights_are_fetched_or_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "base.safetensors"
    save_file(load_model("r3d_small?classes=5").state_dict(), base)
    path = tmp_path / "model.safetensors"
    model = written(path, f"r3d_small?checkpoint={base}&with=ape_gan(width=2)")
    base.unlink()
    assert same(load_model(f"trained:{path}"), model)

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("the network was used")

    big = tmp_path / "big.safetensors"
    network = load_model("torchvision:mc3_18?classes=400")
    labels = tuple(map(str, range(400)))
    spec = "torchvision:mc3_18?weights=KINETICS400_V1"
    content = {"title": "t", "model": spec, "data": {"train": "a", "val": "b"}, "epochs": 1, "batch_size": 1, "lr": 1}
    export(big, network.state_dict(), make_recipe(content, "t"), labels, {})
    monkeypatch.setattr(socket, "socket", refuse)
    loaded = load_model(f"trained:{big}")
    assert same(loaded, network)
    assert loaded.labels == labels


def test_a_hugging_face_network_is_rebuilt_from_its_configuration(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder, path = tmp_path / "repository", tmp_path / "model.safetensors"
    config = transformers.VideoMAEConfig(
        image_size=32, num_frames=4, patch_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, num_labels=3,
    )  # fmt: skip
    transformers.AutoModelForVideoClassification.from_config(config).save_pretrained(folder)
    transformers.VideoMAEImageProcessor(crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    model = written(path, f"hf:{folder}?classes=5")
    (folder / "model.safetensors").unlink()
    assert same(load_model(f"trained:{path}"), model)
    assert same(load_model(f"hf:{folder}?classes=5&checkpoint={path}"), model)
    with pytest.raises(InputError, match="cannot be loaded"):
        load_model(f"hf:{folder}?classes=5")


def test_weights_in_half_precision_are_filled_in_full(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = written(path, "r3d_small", precision="fp16")
    loaded = load_model(f"trained:{path}")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=1e-3, atol=0)


def test_parts(tmp_path: Path) -> None:
    path, clip = tmp_path / "model.safetensors", Clip(torch.rand(2, 3, 8, 20, 20))
    front = written(path, "r3d_small?with=ape_gan(width=2)")
    assert isinstance(front, BehindGenerator)
    whole, gray = load_model(f"trained:{path}"), load_model(f"trained:{path}?part=undefended")
    assert isinstance(whole, Purified)
    assert not isinstance(gray, Purified)
    assert same(gray, front.undefended)
    assert gray.labels == LABELS
    with pytest.raises(InputError, match="did you mean 'undefended'"):
        load_model(f"trained:{path}?part=undefendet")
    mixture = written(path, "r3d_small?with=multi_bn()")
    assert isinstance(mixture, MultiBN)
    branch = load_model(f"trained:{path}?part=branch1")
    torch.testing.assert_close(branch(clip), mixture.eval().answer(clip, 1))
    written(path, "r3d_small")
    with pytest.raises(InputError, match="has no parts"):
        load_model(f"trained:{path}?part=undefended")


def test_a_trained_network_is_altered_and_trained_again(tmp_path: Path) -> None:
    first, second, third = (tmp_path / f"{name}.safetensors" for name in ("first", "second", "third"))
    base = written(first, "r3d_small")
    behind = load_model(f"trained:{first}?with=ape_gan(width=2)")
    assert isinstance(behind, BehindGenerator)
    assert same(behind.undefended, base)
    assert behind.labels == LABELS
    model = written(second, f"trained:{first}?with=ape_gan(width=2)")
    assert same(load_model(f"trained:{second}"), model)
    again = written(third, f"trained:{second}")
    assert same(load_model(f"trained:{third}"), again)
    first.unlink()
    second.unlink()
    assert same(load_model(f"trained:{third}"), again), "the last file is enough"


def test_alterations_of_trained_networks_add_up(tmp_path: Path) -> None:
    path = tmp_path / "a & b.safetensors"
    written(path, "r3d_small?frames=4&with=oud(after=['module.2', 'module.5'])")
    spec = f"trained:{path}?with=[multi_bn(branches=3), ape_gan(width=2)]"
    flat = self_contained(spec)
    assert flat.startswith("r3d_small?frames=4&with=[oud(after=['module.2', 'module.5']), multi_bn(branches=3), ape")
    assert load_model(flat, num_classes=5).state_dict().keys() == load_model(spec).state_dict().keys()
    assert self_contained(f"trained:{path}") == "r3d_small?frames=4&with=oud(after=['module.2', 'module.5'])"
    base = tmp_path / "b & c.safetensors"
    save_file(load_model("embedded:r3d").state_dict(), base)
    spec = f"embedded:r3d?checkpoint={str(base).replace('&', '%26')}"
    assert self_contained(spec) == spec
    written(path, spec, tuple(map(str, range(8))))
    assert self_contained(f"trained:{path}?with=oud()") == f"{spec}&with=[oud()]"


def test_a_part_of_a_trained_model_is_rebuilt_from_its_file(tmp_path: Path) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    written(first, "r3d_small?with=ape_gan(width=2)")
    model = written(second, f"trained:{first}?part=undefended")
    assert same(load_model(f"trained:{second}"), model)
    first.unlink()
    with pytest.raises(InputError, match=r"There is no file .*first\.safetensors"):
        load_model(f"trained:{second}")


@pytest.mark.parametrize(
    "experts",
    ["expert='trained:{}'&experts=2", "experts=['trained:{}%3Fwith=multi_bn()', r3d_small(frames=4), 'trained:{}']"],
)
def test_a_mixture_of_trained_experts_is_rebuilt_from_its_file_alone(
    experts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been named from another folder, and the experts' own file may be gone."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    written(Path("runs/expert.safetensors"), "r3d_small?frames=8&size=16")
    spec = "video_moe?frames=4&size=16&top=2&" + experts.replace("{}", "runs/expert.safetensors")
    model = written(tmp_path / "runs/mixture.safetensors", spec)
    Path("runs/mixture.safetensors").rename("elsewhere/mixture.safetensors")
    Path("runs/expert.safetensors").unlink()
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded = load_model("trained:mixture.safetensors")
    assert same(loaded, model)
    clip = Clip(torch.rand(2, 3, 8, 16, 16))
    assert torch.equal(loaded(clip), model.eval()(clip))
    again = written(Path("again.safetensors"), "trained:mixture.safetensors")
    Path("mixture.safetensors").unlink()
    assert same(load_model("trained:again.safetensors"), again)


def test_an_expert_takes_no_frames_from_the_mixture_because_it_is_a_trained_one(tmp_path: Path) -> None:
    written(tmp_path / "expert.safetensors", "r3d_small")
    flat = self_contained(f"video_moe?expert='trained:{tmp_path}/expert.safetensors'&frames=4")
    assert {expert.frames for expert in load_model(flat).experts} == {16}  # type: ignore[union-attr]
    for spec in ("video_moe?experts=[r3d_small, tsm_r18(frames=4)]", "video_moe?expert='embedded:r3d'", "video_moe"):
        assert self_contained(spec) == spec


def test_code_of_an_expert_is_only_run_when_asked_for(tmp_path: Path) -> None:
    labels = tuple(map(str, range(8)))
    expert, path = tmp_path / "expert.safetensors", tmp_path / "model.safetensors"
    written(expert, f"file:{TINY}:build", labels)
    for named in (f"file:{TINY}:build", f"trained:{expert}%3Frun_code=true"):
        model = written(path, f"video_moe?expert='{named}'&experts=2", labels)
        with pytest.raises(InputError, match="run_code=true"):
            load_model(f"trained:{path}")
        assert same(load_model(f"trained:{path}?run_code=true"), model)


def test_a_checkpoint_stands_in_for_the_file_s_own_weights(tmp_path: Path) -> None:
    path, other = tmp_path / "model.safetensors", tmp_path / "best.safetensors"
    written(path, "r3d_small?with=multi_bn()")
    best = load_model("r3d_small?classes=5&with=multi_bn()", seed=9)
    save_file(best.state_dict(), other)
    assert same(load_model(f"trained:{path}?checkpoint={other}"), best)


def test_code_is_only_run_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    labels = tuple(map(str, range(8)))
    model = written(path, f"file:{TINY}:build", labels)
    with pytest.raises(InputError, match="run_code=true"):
        load_model(f"trained:{path}")
    assert same(load_model(f"trained:{path}?run_code=true"), model)
    outer = tmp_path / "outer.safetensors"
    written(outer, f"trained:{path}?run_code=true", labels)
    with pytest.raises(InputError, match="run_code=true"):
        load_model(f"trained:{outer}")
    assert load_model(f"trained:{outer}?run_code=true")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "does not say which network it is of"),
        ({"format": "pt"}, "does not say which network it is of"),
        ({"recipe": "{", "labels": "[]"}, "does not say which network it is of"),
        ({"recipe": "[1]", "labels": "[]"}, "does not say which network it is of"),
        ({"recipe": '{"model": "r3d_small"}', "labels": "5"}, "does not say which network it is of"),
    ],
)
def test_files_of_others(metadata: dict[str, str] | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(2)}, path, metadata)
    with pytest.raises(InputError, match=message):
        load_model(f"trained:{path}")


def test_files_that_are_not_there_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no file"):
        load_model(f"trained:{tmp_path / 'nowhere.safetensors'}")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"not at all")
    with pytest.raises(InputError, match="not readable as safetensors"):
        load_model(f"trained:{damaged}")
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pt")
    with pytest.raises(InputError, match="does not say which network"):
        load_model(f"trained:{tmp_path / 'weights.pt'}")
    path = tmp_path / "model.safetensors"
    written(path, "r3d_small")
    with pytest.raises(InputError, match="did you mean 'part'"):
        load_model(f"trained:{path}?prat=undefended")
