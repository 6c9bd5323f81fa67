from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from robustvideo.errors import InputError
from robustvideo.model import wrap
from robustvideo.models.checkpoint import load_state, read_labels, read_state


class Executes:
    """Runs code when it is unpickled."""

    ran = False

    def __reduce__(self):
        return (setattr, (Executes, "ran", True))


def network(classes: int = 2) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, classes))


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
def test_torch_files_are_unwrapped(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    state = network().state_dict()
    named = {prefix + key: value for key, value in state.items()}
    path = tmp_path / "weights.pt"
    torch.save({wrapper: named, "epoch": 3} if wrapper else named, path)
    assert same(read_state(path), state)


def test_safetensors(tmp_path: Path) -> None:
    state = network().state_dict()
    path = tmp_path / "weights.safetensors"
    save_file({f"module.{key}": value for key, value in state.items()}, path, {"labels": '["run", "jump"]'})
    assert same(read_state(path), state)
    assert read_labels(path) == ("run", "jump")
    save_file(state, path)
    assert read_labels(path) is None
    assert read_labels(tmp_path / "weights.pt") is None


def test_a_child_called_module_keeps_its_name(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"module.weight": torch.zeros(1), "head.weight": torch.zeros(1)}, path)
    assert read_state(path).keys() == {"module.weight", "head.weight"}


def test_code_is_never_run(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    for write in (lambda: torch.save({"a": Executes()}, path), lambda: path.write_bytes(pickle.dumps(Executes()))):
        write()
        with pytest.raises(InputError, match="convert it to safetensors"):
            read_state(path)
    assert not Executes.ran


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("weights.safetensors", b"not at all", "not readable as safetensors"),
        ("weights.pt", b"", "not readable as a checkpoint"),
        ("weights.pt", b"PK\x03\x04 cut off", "not readable as a checkpoint"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_state(tmp_path / name)


@pytest.mark.parametrize("content", [{}, [1, 2], {"epoch": 3}, torch.zeros(3)], ids=str)
def test_files_without_weights(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(InputError, match="no state dictionary"):
        read_state(tmp_path / "weights.pt")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no checkpoint"):
        read_state(tmp_path / "nowhere.pt")


def test_weights_fit_with_and_without_the_wrapping() -> None:
    plain = network()
    model = wrap(network(), frames=None, size=None)
    load_state(model, plain.state_dict())
    assert same(model.module.state_dict(), plain.state_dict())
    load_state(plain, network().state_dict())
    other = wrap(network(), frames=None, size=None)
    load_state(other, model.state_dict())
    assert same(other.state_dict(), model.state_dict())


def test_weights_that_do_not_fit() -> None:
    state = network().state_dict()
    with pytest.raises(InputError, match=r"lacks '0.bias' \(1 missing, 0 unexpected\)"):
        load_state(network(), {key: value for key, value in state.items() if key != "0.bias"})
    with pytest.raises(InputError, match=r"has 'extra', which the network lacks \(0 missing, 1 unexpected\)"):
        load_state(network(), {**state, "extra": torch.zeros(1)})
    module = network(classes=5)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(InputError, match=r"'2\.\w+' has shape .* the network's is .*classes="):
        load_state(module, state)
    assert same(module.state_dict(), before)
