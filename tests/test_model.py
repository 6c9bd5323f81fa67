"""Models: wrapping a network, resting it, and asking it for verdicts."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from toys import Able, ConvNet, clips

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import (
    Featurised,
    Framewise,
    Model,
    Routed,
    at_rest,
    classify,
    device_of,
    is_out_of_memory,
    logits_of,
    uniform_indices,
    wrap,
)


class Shape(nn.Module):
    """Remembers what it was given."""

    seen: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return x.flatten(1)[:, :4]


class TestWrap:
    @pytest.mark.parametrize(
        ("layout", "shape"), [("bcthw", (2, 3, 4, 6, 8)), ("btchw", (2, 4, 3, 6, 8)), ("bthwc", (2, 4, 6, 8, 3))]
    )
    def test_layouts(self, layout: str, shape: tuple[int, ...]) -> None:
        net, clip = Shape(), clips(2)
        wrap(net, frames=None, size=None, layout=layout)(clip)  # type: ignore[arg-type]
        assert tuple(net.seen.shape) == shape
        axes = {"bcthw": (0, 1, 2, 3, 4), "btchw": (0, 2, 1, 3, 4), "bthwc": (0, 4, 1, 2, 3)}[layout]
        assert torch.equal(net.seen.permute(*axes), clip.video)

    def test_nothing_to_do_changes_nothing(self) -> None:
        net, clip = Shape(), clips(2)
        wrap(net, frames=4, size=(6, 8))(clip)
        assert torch.equal(net.seen, clip.video)

    def test_normalisation_is_per_rgb_channel_also_for_bgr(self) -> None:
        clip = clips(2)
        mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
        expected = (clip.video - torch.tensor(mean).view(3, 1, 1, 1)) / torch.tensor(std).view(3, 1, 1, 1)
        net = Shape()
        wrap(net, frames=None, size=None, mean=mean, std=std)(clip)
        assert torch.allclose(net.seen, expected, atol=1e-6)
        wrap(net, frames=None, size=None, mean=mean, std=std, channel_order="bgr")(clip)
        assert torch.allclose(net.seen, expected.flip(1), atol=1e-6)
        wrap(net, frames=None, size=None, mean=mean)(clip)
        assert torch.allclose(net.seen, clip.video - torch.tensor(mean).view(3, 1, 1, 1), atol=1e-6)

    @pytest.mark.parametrize("size", [5, (5, 7), (12, 16)])
    def test_resizing_each_frame_alone(self, size: int | tuple[int, int]) -> None:
        net, clip = Shape(), clips(2)
        model = wrap(net, frames=None, size=size)
        model(clip)
        assert tuple(net.seen.shape[3:]) == model.size
        whole = net.seen
        model(Clip(clip.video[:, :, 1:2]))
        assert torch.allclose(net.seen[:, :, 0], whole[:, :, 1])
        flat = Clip(torch.full((1, 3, 2, 6, 8), 0.25))
        model(flat)
        assert torch.allclose(net.seen, torch.full_like(net.seen, 0.25))

    @pytest.mark.parametrize(
        ("available", "wanted", "expected"),
        [
            (8, 4, [1, 3, 5, 7]),
            (4, 4, [0, 1, 2, 3]),
            (2, 4, [0, 0, 1, 1]),
            (16, 1, [8]),
            (5, 2, [1, 3]),
            (1, 3, [0] * 3),
        ],
    )
    def test_frames_are_spread_evenly(self, available: int, wanted: int, expected: list[int]) -> None:
        assert uniform_indices(available, wanted).tolist() == expected
        net = Shape()
        clip = clips(1, shape=(3, available, 6, 8))
        wrap(net, frames=wanted, size=None)(clip)
        assert torch.equal(net.seen, clip.video[:, :, expected])

    def test_preprocessing_is_differentiable(self) -> None:
        clip = clips(1, dtype=torch.float32)
        video = clip.video.requires_grad_()
        model = wrap(ConvNet_on_tensor(), frames=3, size=9, mean=[0.5] * 3, std=[0.2] * 3, channel_order="bgr")
        (gradient,) = torch.autograd.grad(model(Clip(video)).sum(), video)
        assert (gradient[:, :, 3] == 0).all() or (gradient != 0).any()
        assert (gradient[:, :, uniform_indices(4, 3)] != 0).any()

    def test_works_in_float64(self) -> None:
        net = Shape()
        wrap(net, frames=None, size=5, mean=[0.5] * 3, std=[0.2] * 3)(clips(1))
        assert net.seen.dtype is torch.float64

    def test_normalisation_moves_with_the_model_but_is_not_saved(self) -> None:
        model = wrap(nn.Flatten(), frames=None, size=None, mean=[0.5] * 3)
        assert model.state_dict() == {}
        assert {name for name, _ in model.named_buffers()} == {"_mean", "_std"}

    def test_refusals(self) -> None:
        with pytest.raises(InputError, match="layout"):
            wrap(Shape(), frames=None, size=None, layout="bhwtc")  # type: ignore[arg-type]
        with pytest.raises(InputError, match="channel_order"):
            wrap(Shape(), frames=None, size=None, channel_order="grb")  # type: ignore[arg-type]
        with pytest.raises(InputError):
            wrap(Shape(), frames=None, size=None, mean=[0.5, 0.5], std=[0.5, 0.5, 0.5])
        with pytest.raises(InputError):
            wrap(Shape(), frames=None, size=None, std=[0.5, 0.0, 0.5])

    def test_logits_of_what_networks_return(self) -> None:
        logits = torch.zeros(2, 3)
        assert logits_of(logits) is logits
        assert logits_of({"logits": logits}) is logits
        assert logits_of(type("Output", (), {"logits": logits})()) is logits
        for wrong in ((logits,), {"scores": logits}, None):
            with pytest.raises(InputError, match="logits"):
                logits_of(wrong)


def ConvNet_on_tensor() -> nn.Module:  # noqa: N802
    return nn.Sequential(nn.Conv3d(3, 2, 3, padding=1), nn.AdaptiveAvgPool3d(1), nn.Flatten())


class TestAtRest:
    def test_rests_and_restores(self) -> None:
        model = ConvNet()
        model.train()
        model.norm.eval()
        model.conv.bias.requires_grad_(False)  # type: ignore[union-attr]
        modes = [m.training for m in model.modules()]
        flags = [p.requires_grad for p in model.parameters()]
        state = torch.random.get_rng_state()
        with at_rest(model):
            assert not any(m.training for m in model.modules())
            assert not any(p.requires_grad for p in model.parameters())
            torch.rand(3)
        assert [m.training for m in model.modules()] == modes
        assert [p.requires_grad for p in model.parameters()] == flags
        assert torch.equal(state, torch.random.get_rng_state())

    def test_restores_after_an_exception(self) -> None:
        model = ConvNet().train()
        with pytest.raises(KeyError), at_rest(model):
            raise KeyError
        assert all(m.training for m in model.modules())
        assert all(p.requires_grad for p in model.parameters())

    def test_nests(self) -> None:
        model = ConvNet().train()
        with at_rest(model):
            with at_rest(model):
                pass
            assert not model.training
        assert model.training


class Answers(Model):
    """Returns what it is told to."""

    def __init__(self, answer: object):
        super().__init__()
        self.answer = answer

    def forward(self, clip: Clip) -> Tensor:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[return-value]


class TestClassify:
    def test_gives_logits_without_a_graph_in_full_precision(self) -> None:
        model, clip = ConvNet().eval(), clips(2, dtype=torch.float32)
        expected = model(clip)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = classify(model, clip)
        assert torch.equal(logits, expected)
        assert not logits.requires_grad

    @pytest.mark.parametrize(
        "answer",
        [
            torch.zeros(2),
            torch.zeros(3, 5),
            torch.zeros(2, 1),
            torch.zeros(2, 3, 1),
            [0, 1],
            None,
            torch.full((2, 3), torch.nan),
            torch.tensor([[0.0, 1.0], [torch.inf, 0.0]]),
            torch.zeros(2, 3, device="meta"),
            RuntimeError("sizes do not match\nand more"),
            ValueError(""),
            KeyError("mask"),
        ],
        ids=lambda a: str(a)[:20],
    )
    def test_refuses_what_are_not_logits(self, answer: object) -> None:
        with pytest.raises(InputError) as caught:
            classify(Answers(answer), clips(2))
        assert "\n" not in str(caught.value)

    def test_names_the_clip_whose_logits_are_not_finite(self) -> None:
        clip = Clip(clips(2).video, ids=("good", "bad"))
        with pytest.raises(InputError, match="bad"):
            classify(Answers(torch.tensor([[0.0, 1.0], [torch.nan, 0.0]])), clip)

    def test_lets_out_of_memory_pass(self) -> None:
        for error in (
            MemoryError(),
            torch.OutOfMemoryError("x"),
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        ):
            assert is_out_of_memory(error)
            with pytest.raises(type(error)):
                classify(Answers(error), clips(2))
        assert not is_out_of_memory(RuntimeError("shapes"))

    def test_tf32_settings_are_as_before(self) -> None:
        before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        classify(ConvNet().double(), clips(2))
        assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before


TF32_SETTINGS = {
    "legacy": "torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True",
    "conv": "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
    "everything": "torch.backends.fp32_precision = 'tf32'",
}


@pytest.mark.parametrize("setting", TF32_SETTINGS)
def test_verdicts_can_be_had_however_tf32_was_set(setting: str) -> None:
    """Torch 2.9 brought a second way to ask for TF32, and refuses to read the first after it was used."""
    if "fp32_precision" in TF32_SETTINGS[setting] and not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("this torch has one way only")
    code = (
        f"import torch\n{TF32_SETTINGS[setting]}\n"
        "from robustvideo.clip import Clip\nfrom robustvideo.model import Model, classify\n"
        "class Net(Model):\n"
        "    def forward(self, clip):\n"
        "        return clip.video.flatten(1)[:, :2]\n"
        "classify(Net(), Clip(torch.rand(2, 3, 2, 4, 4)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-500:]


def test_device_of() -> None:
    assert device_of(nn.Flatten()) == torch.device("cpu")
    assert device_of(nn.Linear(1, 1, device="meta")) == torch.device("meta")


def test_abilities_are_seen() -> None:
    assert isinstance(Able(), Routed)
    assert isinstance(Able(), Featurised)
    assert isinstance(Able(), Framewise)
    assert not isinstance(ConvNet(), Routed)
    assert not isinstance(ConvNet(), Framewise)


def test_the_able_toy_is_consistent() -> None:
    model, clip = Able().double().eval(), clips(2)
    direct = model(clip)
    assert torch.allclose(direct, model.fuse(model.features(clip)))
    assert torch.allclose(direct, model.route(clip).logits)
    frames = clip.video.transpose(1, 2).flatten(0, 1)
    assert torch.allclose(direct, model.head(model.encode_frames(frames).unflatten(0, (2, 4))))


@pytest.mark.parametrize("names", [2, 5])
def test_one_class_name_per_logit(names: int) -> None:
    model = wrap(Shape(), frames=None, size=None, labels=[f"class{i}" for i in range(names)])
    with pytest.raises(InputError, match=f"names {names} classes but returns 4 logits"):
        classify(model, clips(2))
    model.labels = ("a", "b", "c", "d")
    assert classify(model, clips(2)).shape == (2, 4)


def test_a_class_named_twice_is_refused() -> None:
    """Its clips would go to one of the two, whatever the model means."""
    with pytest.raises(InputError, match="Two classes, 1 and 3, are named 'run'"):
        wrap(Shape(), frames=None, size=None, labels=["walk", "run", "fall", "run"])


class Failing(Model):
    """Raises what it is given."""

    def __init__(self, error: BaseException):
        super().__init__()
        self.error = error

    def forward(self, clip: Clip) -> Tensor:
        raise self.error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (AssertionError("expected 3 channels"), "expected 3 channels"),
        (AssertionError(), "AssertionError"),
        (AttributeError("'tuple' object has no attribute 'mean'"), "'tuple' object"),
        (KeyError("x"), "'x'"),
        (ZeroDivisionError("division by zero\nmore"), "division by zero"),
    ],
    ids=repr,
)
def test_whatever_a_model_raises_is_a_sentence(error: Exception, said: str) -> None:
    with pytest.raises(InputError, match=r"failed on clips of shape \(2, 3, 4, 6, 8\)") as caught:
        classify(Failing(error), clips(2))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrapped_network_that_fails_is_told_what_it_got() -> None:
    """The clip's shape alone does not say in which order the network saw its axes."""

    class Strict(nn.Module):
        def forward(self, video: Tensor) -> Tensor:
            if video.shape[2] != 3:
                raise AssertionError
            return video

    model = wrap(Strict(), frames=2, size=None)
    with pytest.raises(InputError, match=r"shape \(2, 3, 4, 6, 8\), given .* layout='bcthw': Assert"):
        classify(model, clips(2))


@pytest.mark.parametrize("error", [InputError("said already."), torch.OutOfMemoryError("out of memory"), MemoryError()])
def test_what_is_a_sentence_or_no_memory_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        classify(Failing(error), clips(2))
    assert caught.value is error
