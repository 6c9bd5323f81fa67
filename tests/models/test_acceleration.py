"""The twin has the original's gradients, and leaves the original alone."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm
from torch.utils.checkpoint import checkpoint

from robustvideo.clip import Clip
from robustvideo.model import Framewise, Model, wrap
from robustvideo.models.acceleration import gradient_twin
from robustvideo.models.convolution import convolution, depthwise_gradient, interleaved_gradient

VIDEO = (2, 3, 6, 20, 18)


def settled(network: nn.Module) -> nn.Module:
    """The network as after training: normalisation statistics and scales that are not 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for values, low, high in (
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.3, 2.0),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.3, 0.3),
            ):
                if values is not None:
                    values.data.copy_(torch.rand(values.shape, generator=generator) * (high - low) + low)
    return network


def input_gradient(network: nn.Module, video: Tensor) -> Tensor:
    video = video.detach().requires_grad_()
    logits = network(video)
    weights = torch.linspace(-1, 1, logits.shape[1], dtype=logits.dtype)
    return torch.autograd.grad((logits * weights).sum(), video)[0]


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().norm() / expected.detach().norm())


class Separable(nn.Module):
    """Every shape that is treated in its own way, beside plain ones."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv3d(3, 8, 5, stride=(1, 2, 2), padding=2, bias=False),
            nn.BatchNorm3d(8),
            nn.ReLU(inplace=True),
            nn.Conv3d(8, 12, (1, 3, 3), padding=(0, 1, 1)),
            nn.BatchNorm3d(12, affine=False),
            nn.ReLU(inplace=True),
            nn.Conv3d(12, 16, (3, 1, 1), padding=(1, 0, 0)),
            nn.Conv3d(16, 16, 3, padding=1, groups=16),
            nn.Conv3d(16, 16, 3, stride=(1, 2, 2), padding=1, groups=16, bias=False),
            nn.BatchNorm3d(16),
            nn.SiLU(),
            nn.Conv3d(16, 8, 1, stride=2),
            nn.Conv3d(8, 8, 3, padding="same", padding_mode="replicate"),
            nn.BatchNorm3d(8),
        )
        self.head = nn.Linear(8, 4)

    def forward(self, video: Tensor) -> Tensor:
        return self.head(self.features(video).mean((2, 3, 4)))


class ByFrame(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 6, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3)
        )
        self.mixer = nn.Sequential(nn.Conv1d(6, 5, 3, padding=1), nn.BatchNorm1d(5))
        self.reader = nn.LSTM(5, 7, batch_first=True)
        self.head = nn.Linear(7, 4)

    def forward(self, video: Tensor) -> Tensor:
        frames = self.encoder(video.transpose(1, 2).flatten(0, 1)).mean((2, 3)).unflatten(0, (len(video), -1))
        return self.head(self.reader(self.mixer(frames.mT).mT)[0][:, -1])


def torchvision_network(name: str) -> nn.Module:
    from torchvision.models import get_model

    return get_model(name, num_classes=5)


NETWORKS = {"separable": Separable, "by_frame": ByFrame, "r3d_18": lambda: torchvision_network("r3d_18")}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return settled(NETWORKS[request.param]()).eval()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_gradient_is_the_original_s(network: nn.Module, dtype: torch.dtype, tolerance: float) -> None:
    network = network.to(dtype)
    video = torch.rand(VIDEO, dtype=dtype)
    twin = gradient_twin(network, "fp32")
    assert relative_error(twin(video), network(video)) < tolerance
    assert relative_error(input_gradient(twin, video), input_gradient(network, video)) < tolerance


def test_under_autocast_the_gradient_points_the_same_way(network: nn.Module) -> None:
    video = torch.rand(VIDEO)
    expected = input_gradient(network, video)
    with torch.autocast("cpu", torch.bfloat16):
        found = input_gradient(gradient_twin(network, "bf16"), video)
    assert found.dtype == torch.float32
    assert F.cosine_similarity(found.flatten(), expected.flatten(), 0) > 0.95


def test_twin_ignores_autocast_for_double_precision(network: nn.Module) -> None:
    video = torch.rand(VIDEO, dtype=torch.float64)
    network = network.double()
    with torch.autocast("cpu", torch.bfloat16):
        found = input_gradient(gradient_twin(network, "bf16"), video)
    assert relative_error(found, input_gradient(network, video)) < 1e-10


def test_original_is_left_bit_for_bit(network: nn.Module) -> None:
    network.train()
    network.requires_grad_(True)
    before = copy.deepcopy(network.state_dict())
    modules = [(name, type(module), set(vars(module))) for name, module in network.named_modules()]
    twin = gradient_twin(network, "bf16")
    with torch.autocast("cpu", torch.bfloat16):
        input_gradient(twin, torch.rand(VIDEO))
    assert all(torch.equal(before[name], values) for name, values in network.state_dict().items())
    assert [(name, type(module), set(vars(module))) for name, module in network.named_modules()] == modules
    assert all(module.training for module in network.modules())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert not any(p.requires_grad for p in twin.parameters())
    assert not any(module.training for module in twin.modules())


def test_values_of_the_twin_s_parameters_are_the_original_s(network: nn.Module) -> None:
    twin = gradient_twin(network, "bf16")
    assert all(torch.equal(values, twin.state_dict()[name]) for name, values in network.state_dict().items())


def test_normalisation_is_folded_away(network: nn.Module) -> None:
    network = nn.Sequential(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.BatchNorm3d(4)).eval()
    twin = gradient_twin(network, "fp32")
    calls = []
    for norm in (twin[1], twin[3]):
        norm.register_forward_hook(lambda module, *_: calls.append(module))
    twin(torch.rand(VIDEO))
    assert calls == [twin[3]], "the one after the ReLU must stay"


def test_a_normalisation_shared_by_two_places_is_folded_only_where_it_follows_a_convolution() -> None:
    norm = nn.BatchNorm3d(3)
    network = settled(nn.Sequential(nn.Conv3d(3, 3, 1), norm, nn.ReLU(), norm, nn.Conv3d(3, 2, 1))).double().eval()
    network = nn.Sequential(network, nn.AdaptiveAvgPool3d(1), nn.Flatten())
    video = torch.rand(VIDEO, dtype=torch.float64)
    expected = input_gradient(network, video)
    assert relative_error(input_gradient(gradient_twin(network, "fp32"), video), expected) < 1e-10


class Inside(nn.Module):
    """Takes a convolution out of its sequence, where its normalisation must not follow it."""

    def __init__(self) -> None:
        super().__init__()
        self.block = settled(nn.Sequential(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4)))

    def forward(self, video: Tensor) -> Tensor:
        return (self.block[0](video) * self.block(video)).mean((2, 3, 4))


class Tied(nn.Module):
    """One weight in two layers, read once more by the module itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(18, 18), nn.Linear(18, 18)
        self.second.weight = self.first.weight

    def forward(self, video: Tensor) -> Tensor:
        rows = self.second(self.first(video)) @ torch.linalg.qr(self.first.weight).Q
        return rows.mean((1, 2, 3))


class Normed(nn.Module):
    """Weights computed from other tensors at every pass, in the old way and the new."""

    def __init__(self, norm) -> None:
        super().__init__()
        self.conv, self.head = norm(nn.Conv3d(3, 4, 3)), norm(nn.Linear(4, 3))

    def forward(self, video: Tensor) -> Tensor:
        return self.head(self.conv(video).relu().mean((2, 3, 4)))


class Scaled(nn.Conv3d):
    """A convolution with code of its own."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight * 3, bias)


def hooked() -> nn.Module:
    network = nn.Sequential(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    network[0].register_forward_hook(lambda module, inputs, output: output * 2)
    return settled(network)


UNUSUAL = {
    "inside": Inside,
    "tied": Tied,
    "old spectral norm": lambda: Normed(spectral_norm),
    "new spectral norm": lambda: Normed(parametrizations.spectral_norm),
    "weight norm": lambda: Normed(parametrizations.weight_norm),
    "own code": lambda: nn.Sequential(Scaled(3, 4, 3), nn.BatchNorm3d(4), nn.AdaptiveAvgPool3d(1), nn.Flatten()),
    "hook": hooked,
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_modules_are_unharmed(name: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNUSUAL[name]().double().eval()
    video = torch.rand(VIDEO, dtype=torch.float64)
    state = copy.deepcopy(network.state_dict())
    expected = input_gradient(network, video)
    assert relative_error(input_gradient(gradient_twin(network, "fp32"), video), expected) < 1e-10
    with torch.autocast("cpu", torch.bfloat16):
        found = input_gradient(gradient_twin(network.float(), "bf16"), video.float())
    assert F.cosine_similarity(found.flatten().double(), expected.flatten(), 0) > 0.99
    assert all(torch.equal(values, network.double().state_dict()[key]) for key, values in state.items())


def test_a_model_that_cannot_be_copied_stands_for_itself() -> None:
    network = nn.Linear(3, 2)
    network.cache = network.weight * 2  # inside a graph: torch refuses to copy it
    assert gradient_twin(network, "bf16") is network


class Viewing(Model):
    """Insists on the usual layout, as much old code does."""

    def __init__(self) -> None:
        super().__init__()
        self.block = settled(nn.Sequential(nn.Conv3d(3, 4, 3, (1, 2, 2), 1), nn.BatchNorm3d(4), nn.ReLU()))
        self.linear = nn.Linear(4 * 10 * 9, 3)

    def encode_frames(self, frames: Tensor) -> Tensor:
        return self.block(frames[:, :, None]).view(len(frames), -1)

    def head(self, features: Tensor) -> Tensor:
        return self.linear(features).mean(1)

    def reconstruct(self, clip: Clip) -> tuple[Tensor, Tensor]:
        rows = self.block(clip.video).view(len(clip), -1)
        return rows[:, None, :3], rows.square().mean(1)

    def forward(self, clip: Clip) -> Tensor:
        maps = self.block(clip.video)
        return (
            self.linear(maps.transpose(1, 2).contiguous().view(len(clip), clip.frames, -1)).mean(1) + maps.view(-1)[0]
        )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_code_that_needs_the_usual_layout_gets_it(precision: str) -> None:
    model = Viewing().eval()
    outer = nn.Sequential(model)
    video = torch.rand(VIDEO)

    def gradient(network: nn.Module, run) -> Tensor:
        return input_gradient(lambda x: run(network, x), video)

    for network in (model, outer):
        expected = gradient(network, lambda n, x: n(Clip(x)))
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            twin = gradient_twin(network, precision)
            for _ in range(2):
                found = gradient(twin, lambda n, x: n(Clip(x)))
                assert F.cosine_similarity(found.flatten(), expected.flatten(), 0) > 0.99
    expected = gradient(model, lambda n, x: n.head(n.encode_frames(x[:, :, 0])[:, None]))
    found = gradient(gradient_twin(model, "fp32"), lambda n, x: n.head(n.encode_frames(x[:, :, 0])[:, None]))
    assert relative_error(found, expected) < 1e-5
    expected = gradient(model, lambda n, x: n.reconstruct(Clip(x))[1][:, None])
    found = gradient(gradient_twin(model, "fp32"), lambda n, x: n.reconstruct(Clip(x))[1][:, None])
    assert relative_error(found, expected) < 1e-5


def test_a_model_that_fails_by_itself_still_does() -> None:
    twin = gradient_twin(nn.Sequential(nn.Conv3d(3, 4, 3), nn.Flatten(), nn.Linear(7, 2)), "fp32")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        twin(torch.rand(VIDEO))


def test_a_twin_dies_with_its_last_user() -> None:
    gc.disable()
    try:
        twin = gradient_twin(wrap(Separable(), frames=None, size=None), "bf16")
        assert gradient_twin(twin, "bf16") is twin
        gone = weakref.ref(twin)
        del twin
        assert gone() is None
    finally:
        gc.enable()


def test_abilities_and_preprocessing_survive() -> None:
    model = wrap(settled(Separable()), frames=4, size=(16, 14), mean=[0.4] * 3, std=[0.2] * 3, labels="abcd").eval()
    twin = gradient_twin(model, "fp32")
    assert (type(twin), twin.labels, twin.frames) == (type(model), model.labels, model.frames)
    clip = Clip(torch.rand(VIDEO))
    assert torch.allclose(twin(clip), model(clip), atol=1e-5)
    from robustvideo.models.embedded import build

    assert isinstance(gradient_twin(build("cnn_lstm"), "bf16"), Framewise)


sizes = st.tuples(*[st.integers(1, 9)] * 3)


@settings(max_examples=80)
@given(
    kernel=st.tuples(*[st.integers(1, 5)] * 3),
    stride=st.tuples(*[st.integers(1, 4)] * 3),
    padding=st.tuples(*[st.integers(0, 4)] * 3),
    extra=sizes,
    depthwise=st.booleans(),
    plane=st.booleans(),
)
def test_rewritten_gradients_of_any_geometry(kernel, stride, padding, extra, depthwise, plane) -> None:
    dimensions = 2 if plane else 3
    kernel, stride, extra = kernel[:dimensions], stride[:dimensions], extra[:dimensions]
    padding = tuple(min(p, k - 1) for p, k in zip(padding, kernel, strict=False))
    extent = [k + n for k, n in zip(kernel, extra, strict=True)]
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 1 if depthwise else 3, *kernel, dtype=torch.float64, generator=generator)
    x = torch.randn(2, 4 if depthwise else 3, *extent, dtype=torch.float64, generator=generator, requires_grad=True)
    operation = F.conv2d if plane else F.conv3d
    y = operation(x, weight, stride=stride, padding=padding, groups=4 if depthwise else 1)
    gradient = torch.randn(y.shape, dtype=torch.float64, generator=generator)
    expected = torch.autograd.grad(y, x, gradient)[0]
    rewritten = (depthwise_gradient if depthwise else interleaved_gradient)(weight, stride, padding)
    assert torch.allclose(rewritten(gradient, extent), expected, atol=1e-12)


@pytest.mark.parametrize("layer", [nn.Conv3d(3, 5, 3, (1, 2, 2), 1), nn.Conv3d(4, 4, 3, 2, 1, groups=4)])
def test_rewritten_gradients_can_be_differentiated_again_and_checkpointed(layer: nn.Conv3d) -> None:
    x = torch.rand(2, layer.in_channels, 4, 7, 6, requires_grad=True)
    fast = convolution(layer, layer.weight.detach(), layer.bias.detach())

    def second(run) -> Tensor:
        (first,) = torch.autograd.grad(run(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    assert relative_error(second(fast), second(layer)) < 1e-5
    (through,) = torch.autograd.grad(checkpoint(fast, x, use_reentrant=False).square().sum(), x)
    (straight,) = torch.autograd.grad(layer(x).square().sum(), x)
    assert relative_error(through, straight) < 1e-5


def test_a_network_with_an_autocast_of_its_own_is_differentiated_outside_of_one() -> None:
    """A denoiser in bf16 before a classifier in fp32: the gradient comes back in the type of the inner cast."""

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv3d(3, 4, (1, 2, 2), (1, 2, 2)), nn.Conv3d(4, 4, 3, padding=1, groups=4))

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return self.layers(x).float().square().sum()  # type: ignore[no-any-return]

    torch.manual_seed(0)
    network = Inner().eval().requires_grad_(False)
    found = []
    for module in (network, gradient_twin(network, "fp32")):
        x = torch.rand(*VIDEO, generator=torch.Generator().manual_seed(0)).requires_grad_()
        found.append(torch.autograd.grad(module(x), x)[0])
    assert found[1].dtype is torch.float32
    assert (found[0] - found[1]).norm() < 0.02 * found[0].norm()
