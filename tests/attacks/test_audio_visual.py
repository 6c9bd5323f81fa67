"""TIA, MMA and TMA where their optimum is known, and what they fall back to when their terms are switched off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from toys import Able, ConvNet, alternating, clips, problem_for

from robustvideo.attacks import FGSM, IFGSM, MIFGSM, MMA, TIA, TMA, Ensemble, load_attack
from robustvideo.attacks.audio_visual import AudioVisualLoss, alignment, variance_over_time
from robustvideo.attacks.gradients import plain
from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.model import Model
from robustvideo.threat import AudioVisual, Joint, Linf

LOOSE = AudioVisual(0.1, 0.05, stored=False)


class Means(Model):
    """Features are the mean pixel of each frame and the mean sample of each window; logits are -1 and 1."""

    def features(self, clip: Clip) -> dict[str, Tensor]:
        heard = clip.signal("audio").mean(1).reshape(len(clip), clip.frames, -1).mean(2)
        return {"video": clip.video.mean((1, 3, 4))[:, :, None], "audio": heard[:, :, None]}

    def fuse(self, features: Mapping[str, Tensor]) -> Tensor:
        total = features["video"].sum((1, 2)) * 0
        return torch.stack([total - 1, total + 1], 1)

    def forward(self, clip: Clip) -> Tensor:
        return self.fuse(self.features(clip))


class Flat(Means):
    """The signals themselves are the features, one time step each cut from them."""

    def features(self, clip: Clip) -> dict[str, Tensor]:
        return {"video": clip.video.flatten(1)[:, None], "audio": clip.signal("audio").flatten(1)[:, None]}


def two_frames() -> Clip:
    video = torch.empty(1, 3, 2, 4, 4, dtype=torch.float64)
    video[:, :, 0], video[:, :, 1] = 0.2, 0.8
    sound = torch.cat([torch.full((1, 1, 8), -0.3), torch.full((1, 1, 8), 0.4)], 2).double()
    return Clip(video, sound, 8000)


def same_signals(one: Clip, other: Clip) -> bool:
    assert one.audio is not None
    assert other.audio is not None
    return torch.equal(one.video, other.video) and torch.equal(one.audio, other.audio)


@pytest.mark.parametrize("scale", ["log", "clean", "raw"])
def test_invariance_moves_the_steps_towards_each_other(scale: str) -> None:
    attack = TIA(LOOSE, classification=0.0, scale=scale, copies=1, decay=0.0, early_stop=False)
    result = attack(Means(), two_frames(), torch.tensor([0]))
    assert torch.allclose(result.clip.video.mean((0, 1, 3, 4)), torch.tensor([0.3, 0.7]).double())
    assert torch.allclose(Means().features(result.clip)["audio"][0, :, 0], torch.tensor([-0.25, 0.35]).double())
    trace = result.loss_trace[0]
    assert (trace.diff() > 0).all()  # the objective is minus the variance


def test_the_variance_and_its_gradient_by_hand() -> None:
    features = torch.tensor([[[1.0, 3.0], [2.0, 2.0], [6.0, 0.0]]], dtype=torch.float64, requires_grad=True)
    means = torch.tensor([2.0, 2.0, 3.0], dtype=torch.float64)
    variance = variance_over_time(features)
    assert float(variance.detach()) == pytest.approx(float(((means - means.mean()) ** 2).mean()))
    (gradient,) = torch.autograd.grad(variance.sum(), features)
    expected = 2 / 3 * (means - means.mean()) / 2  # each of the two channels has half of the mean
    torch.testing.assert_close(gradient, expected[None, :, None].expand_as(gradient))
    with pytest.raises(InputError, match="at least two time steps"):
        variance_over_time(features[:, :1])


def test_misalignment_reaches_the_opposite_direction() -> None:
    random = torch.Generator().manual_seed(0)
    video = 0.5 + 0.2 * torch.rand(2, 1, 2, 3, 3, generator=random, dtype=torch.float64)
    sound = 0.3 * torch.rand(2, 1, 18, generator=random, dtype=torch.float64)
    threat = Joint((Linf(1e-9, stored=False), Linf(0.95, modality="audio", stored=False)))
    attack = MMA(threat, classification=0.0, copies=1, decay=0.0, steps=300, early_stop=False)
    result = attack(Flat(), Clip(video, sound, 8000), torch.tensor([0, 1]))
    cosine = alignment(Flat().features(result.clip))
    assert (cosine < -1 + 1e-3).all(), cosine


def test_the_cosine_s_gradient_is_orthogonal_and_its_scale_does_not_matter() -> None:
    seen = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)
    heard = torch.randn(3, 4, 6, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(alignment({"video": seen, "audio": heard}).sum(), seen)
    assert ((gradient * seen.mean(1, keepdim=True)).sum((1, 2)).abs() < 1e-6).all()
    torch.testing.assert_close(
        alignment({"video": seen, "audio": heard}), alignment({"video": seen, "audio": 8 * heard})
    )
    steps = torch.nn.functional.cosine_similarity(seen, heard, dim=2).mean(1)
    torch.testing.assert_close(alignment({"video": seen, "audio": heard}, per_step=True), steps)


def able_case(batch: int = 3) -> tuple[Model, Clip, Tensor]:
    return Able().double().eval(), clips(batch, samples=48), torch.arange(batch) % 3


def test_without_its_terms_it_is_momentum_iterative_and_single_step_fgsm() -> None:
    model, clip, labels = able_case()
    threat = AudioVisual(4 / 255, 0.01)
    plainest = TMA(threat, lam1=0, lam2=0, copies=1, decay=0, early_stop=False)
    assert same_signals(plainest(model, clip, labels).clip, IFGSM(threat, early_stop=False)(model, clip, labels).clip)
    momentum = replace(plainest, decay=1.0)
    assert same_signals(momentum(model, clip, labels).clip, MIFGSM(threat, early_stop=False)(model, clip, labels).clip)
    single = replace(plainest, steps=1)
    assert same_signals(single(model, clip, labels).clip, FGSM(threat, early_stop=False)(model, clip, labels).clip)
    both = TMA(lam2=0, copies=3, early_stop=False), TIA(copies=3, early_stop=False)
    assert torch.equal(*(attack(model, clip, labels).loss_trace for attack in both))


def test_masked_copies_of_ratio_0_are_the_clip_itself() -> None:
    model, clip, labels = able_case()
    masked = load_attack("tma(lam1=0, lam2=0, steps=1, copies=6, transforms=[mask], mask_ratio=0, early_stop=false)")
    fgsm = FGSM(AudioVisual(), early_stop=False)
    assert same_signals(masked(model, clip, labels).clip, fgsm(model, clip, labels).clip)


def test_the_objective_is_the_sum_of_its_terms() -> None:
    model, clip, labels = able_case()
    problem = problem_for(model, clip, labels, AudioVisual())
    values = {}
    for lam1, lam2 in ((0.7, 0.3), (0.7, 0.0), (0.0, 0.3), (0.0, 0.0)):
        loss = AudioVisualLoss(lam1, lam2, scale="clean")
        posed = replace(problem, reference=loss.reference(problem))
        values[lam1 > 0, lam2 > 0] = loss(posed, clip)[0]
    both = values[True, False] + values[False, True] - values[False, False]
    torch.testing.assert_close(values[True, True], both)
    clean = torch.stack([variance_over_time(f) for f in model.features(clip).values()])  # type: ignore[operator]
    torch.testing.assert_close(values[False, False] - values[True, False], 0.7 * (clean / (clean + 1e-6)).sum(0))


@pytest.mark.parametrize("lams", [(1.0, 1.0), (0.5, 0.0), (0.0, 2.0)])
def test_the_gradient_is_that_of_finite_differences(lams: tuple[float, float]) -> None:
    model, clip, labels = able_case(2)
    model.eval()
    problem = problem_for(model, clip, labels, LOOSE)
    loss = AudioVisualLoss(*lams)
    problem = replace(problem, reference=loss.reference(problem))
    zero = tuple(torch.zeros_like(clip.signal(p.modality)) for p in LOOSE.parts)
    gradients = plain(problem, loss, zero).gradients
    for i in range(2):
        direction = torch.randn_like(zero[i])
        h = 1e-6

        def value(size: float, i: int = i, direction: Tensor = direction) -> Tensor:
            moved = tuple(size * direction if k == i else z for k, z in enumerate(zero))
            return loss(problem, problem.threat.perturb(clip, moved, (None, None)))[0]

        numeric = (value(h) - value(-h)) / (2 * h)
        torch.testing.assert_close((gradients[i] * direction).flatten(1).sum(1), numeric, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("eps", "audio"), [(8 / 255, 0.0), (0.0, 0.012), (8 / 255, 0.012)])
def test_a_modality_of_budget_0_is_bit_equal_and_the_other_one_is_used(eps: float, audio: float) -> None:
    model, clip, labels = able_case()
    result = TMA(AudioVisual(eps, audio), early_stop=False)(model, clip, labels)
    assert result.clip.audio is not None
    assert clip.audio is not None
    change_v, change_a = result.clip.video - clip.video, result.clip.audio - clip.audio
    assert float(change_v.abs().max()) * 255 == pytest.approx(255 * eps, abs=1e-6)
    assert float(change_a.abs().max()) * 32768 == pytest.approx(int(audio * 32768), abs=1e-6)


def test_the_video_s_gradient_holds_the_cosine_though_sound_is_left_alone() -> None:
    model, clip, labels = able_case()
    options = {"threat": AudioVisual(8 / 255, 0.0, stored=False), "classification": 0.0, "copies": 1}
    result = MMA(early_stop=False, **options)(model, clip, labels)  # type: ignore[arg-type]
    assert (result.loss_trace[:, -1] > result.loss_trace[:, 0]).all()


def test_one_modality_s_scale_does_not_change_the_other_s_momentum() -> None:
    """Gradients are normalised per modality: a louder weight on sound must not slow the picture down."""
    model, clip, labels = able_case()
    quiet = TMA(copies=1, lam1=0, lam2=0, early_stop=False, threat=LOOSE)
    first = quiet(model, clip, labels)
    assert first.clip.audio is not None
    alone = quiet(model, clip.select([1]), labels[1:2])
    torch.testing.assert_close(alone.clip.video, first.clip.video[1:2])


def test_an_ensemble_of_the_same_model_is_that_model() -> None:
    model, clip, labels = able_case()
    attack = TMA(copies=2, early_stop=False)
    one = attack(model, clip, labels)
    three = attack(Ensemble([model] * 3), clip, labels)
    torch.testing.assert_close(three.clip.video, one.clip.video)
    torch.testing.assert_close(three.loss_trace, one.loss_trace)
    first = attack(Ensemble([model, Able(seed=4).double()], weights=[1, 0]), clip, labels)
    torch.testing.assert_close(first.clip.video, one.clip.video)


def test_each_member_of_an_ensemble_is_measured_by_its_own_scale() -> None:
    model, clip, labels = able_case()
    other = Able(seed=4, width=6).double()
    ensemble = Ensemble([model, other], weights=[3, 1])
    values = []
    for surrogate in (model, other, ensemble):
        problem = problem_for(surrogate, clip, labels, AudioVisual())
        loss = AudioVisualLoss(classification=0.0)
        values.append(loss(replace(problem, reference=loss.reference(problem)), clip)[0])
    torch.testing.assert_close(values[2], 0.75 * values[0] + 0.25 * values[1])


def test_targets_change_the_sign_of_the_class_alone() -> None:
    model, clip, labels = able_case()
    away, towards = (problem_for(model, clip, labels, AudioVisual(), targeted=t) for t in (False, True))
    loss = AudioVisualLoss(scale="raw")
    model.eval()
    cross_entropy = torch.nn.functional.cross_entropy(model(clip), labels, reduction="none")
    torch.testing.assert_close(loss(away, clip)[0] - loss(towards, clip)[0], 2 * cross_entropy)


def test_a_static_clip_has_nothing_to_lower() -> None:
    clip = Clip(torch.full((1, 3, 2, 4, 4), 0.5).double(), torch.zeros(1, 1, 16).double(), 8000)
    result = TIA(LOOSE, classification=0.0, copies=1)(Means(), clip, torch.tensor([1]))
    assert torch.equal(result.clip.video, clip.video)


@pytest.mark.parametrize("name", ["tia", "mma", "tma"])
def test_what_it_needs_of_model_and_clip(name: str) -> None:
    with pytest.raises(InputError, match=r"no features\(\)"):
        load_attack(f"{name}(threat=linf(eps=8/255))")(ConvNet(), clips(1, dtype=torch.float32), torch.tensor([0]))
    with pytest.raises(InputError, match="no sound track"):
        load_attack(name)(Able().double(), clips(2), torch.tensor([0, 1]))


def test_mistakes_are_named() -> None:
    for spec, message in (
        ("tia(lam1=-1)", "lam1=-1"),
        ("tma(copies=0)", "at least one copy"),
        ("mma(transforms=[blurr])", "should be 'scale', 'mask', 'blur' or 'mix'"),
        ("tia(mask_ratio=1)", r"in \[0, 1\)"),
        ("tia(scale=own)", "scale"),
        ("tia(lam2=1)", "parameter of tia"),
    ):
        with pytest.raises(InputError, match=message):
            load_attack(spec)
    with pytest.raises(InputError, match="cannot be compared"):
        alignment({"video": torch.zeros(1, 2, 3), "audio": torch.zeros(1, 2, 4)})
    with pytest.raises(InputError, match="clips with a sound track"):
        MMA(Linf(8 / 255))(Able().double(), clips(2), alternating(2))
