from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import WrappedModel
from robustvideo.models import load_model
from robustvideo.models.user_file import digest_of_code

USER = """
from dataclasses import dataclass

import torch
import robustvideo as rv
import neighbour

@dataclass
class Settings:
    width: int

class Net(torch.nn.Module):
    def __init__(self, settings):
        super().__init__()
        self.head = torch.nn.Linear(3, settings.width)

    def forward(self, video):
        return self.head(video.mean((2, 3, 4)))

def build(width="4"):
    return rv.wrap(Net(Settings(int(width))), frames=None, size=None)

def bare():
    return Net(Settings(2))

def broken():
    raise KeyError("weights")

number = 3
"""


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("")
    (tmp_path / "my_model.py").write_text(USER)
    return tmp_path / "my_model.py"


def test_factory_gets_the_options(user_file: Path) -> None:
    path = list(sys.path)
    model = load_model(f"file:{user_file}:build?width=7")
    assert isinstance(model, WrappedModel)
    assert not model.training
    assert model(Clip(torch.rand(2, 3, 4, 8, 8))).shape == (2, 7)
    assert sys.path == path


def test_same_spec_same_model(user_file: Path) -> None:
    state = torch.get_rng_state()
    first, second = (load_model(f"file:{user_file}:build").state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert torch.equal(torch.get_rng_state(), state)


def test_checkpoint(user_file: Path, tmp_path: Path) -> None:
    weights = {"head.weight": torch.ones(4, 3), "head.bias": torch.zeros(4)}
    torch.save(weights, tmp_path / "weights.pt")
    model = load_model(f"file:{user_file}:build?checkpoint={tmp_path / 'weights.pt'}")
    assert torch.equal(model.module.head.weight, torch.ones(4, 3))


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("bild", "did you mean 'build'"),
        ("number", "Unknown factory"),
        ("broken", r"broken\(\) of .* fails: KeyError: 'weights'"),
        ("build?depth=3", "unexpected keyword argument 'depth'"),
        ("bare", r"returned Net, not a robustvideo model: return rv.wrap"),
    ],
)
def test_factories_that_do_not_serve(user_file: Path, factory: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_model(f"file:{user_file}:{factory}")


def test_the_cause_is_kept(user_file: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_model(f"file:{user_file}:broken")
    assert isinstance(caught.value.__cause__, KeyError)


def test_files_that_do_not_serve(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text("def build(:\n")
    (tmp_path / "notes.txt").write_text("")
    for spec, message in (
        (f"file:{tmp_path}/nowhere.py:build", "There is no file"),
        (f"file:{tmp_path}/wrong.py:build", "fails when it is loaded: SyntaxError"),
        (f"file:{tmp_path}/notes.txt:build", "is not a Python file"),
        ("file:wrong.py", "write it like 'file:my_model.py:build'"),
    ):
        with pytest.raises(InputError, match=message):
            load_model(spec)


def test_the_digest_is_of_the_code_that_is_run(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    (folder / "parts").mkdir(parents=True)
    (folder / "model.py").write_text("import os\nfrom parts import head\ndef build():\n    import late\n")
    (folder / "parts" / "__init__.py").write_text("from .tail import *\n")
    for name in ("parts/head.py", "parts/tail.py", "late.py", "unrelated.py"):
        (folder / name).write_text("")
    whole = digest_of_code(folder / "model.py")
    assert digest_of_code(folder / "model.py") == whole
    (folder / "unrelated.py").write_text("x = 1")
    assert digest_of_code(folder / "model.py") == whole
    seen = {whole}
    for name in ("model.py", "parts/__init__.py", "parts/head.py", "parts/tail.py", "late.py"):
        (folder / name).write_text((folder / name).read_text() + "x = 1\n")
        seen.add(digest_of_code(folder / "model.py"))
    assert len(seen) == 6
    assert digest_of_code(folder.rename(tmp_path / "moved") / "model.py") in seen


def test_a_loaded_model_knows_its_code(user_file: Path) -> None:
    model = load_model(f"file:{user_file}:build")
    assert model.code_digest == digest_of_code(user_file)
    assert load_model("embedded:r3d").code_digest == ""
