"""A model behind a purifier: verdicts, gradient modes, draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from purifiers import Grey, Identity, Jitter, Scaled, TwoViews, denoiser_file, generator_file
from torch import Tensor
from toys import ConvNet, Linear, Smooth, Watched, alternating, clips, problem_for, weights

from robustvideo.attacks import APGDCE, PGD, Square
from robustvideo.attacks.ascent import Ascent
from robustvideo.attacks.averaged import Expectation
from robustvideo.attacks.gradients import plain
from robustvideo.attacks.objectives import CrossEntropy, Margin
from robustvideo.attacks.updates import SteepestStep
from robustvideo.clip import Clip
from robustvideo.evaluation.crafting import transferred
from robustvideo.model import Model, Purified, Voting, at_rest, classify, run
from robustvideo.models.acceleration import gradient_twin
from robustvideo.models.windowed import Windowed
from robustvideo.purification import Defended, Purifier, load_defense
from robustvideo.threat import Linf

PICTURES = (3, 4, 16, 16)


def gradient(model: Model, clip: Clip) -> Tensor:
    """Of the mean margin towards alternating labels, as an attack would take it."""
    problem = replace(
        problem_for(model, clip, alternating(len(clip)), Linf(8 / 255)), gradient_model=model.for_gradients()
    )
    return plain(problem, Margin(), (torch.zeros_like(clip.video),)).gradients[0]


def smooth(seed: int = 0) -> Smooth:
    return Smooth(PICTURES, seed=seed)


def pictures(batch: int = 3) -> Clip:
    return clips(batch, shape=PICTURES)


def test_it_is_a_model_like_the_one_behind_it() -> None:
    inner = ConvNet().eval()
    inner.labels, inner.frames, inner.size = ("a", "b", "c"), 4, (6, 8)
    model = Defended(inner, load_defense("median"))
    assert isinstance(model, Purified)
    assert isinstance(model, Voting)
    assert (model.labels, model.frames, model.size) == (inner.labels, 4, (6, 8))
    assert model.undefended is inner
    assert model.separate == {"undefended": inner}
    assert model.gradient_mode == "exact"
    assert Defended(inner, load_defense("jpeg(gradient=none)")).gradient_mode == "none"


@pytest.mark.parametrize("spec", ["jpeg", "median", "temporal_shuffle", "video_compression", "bit_depth", "wavelet"])
def test_the_verdict_is_the_model_s_on_the_purified_clip(spec: str) -> None:
    purifier, inner, clip = load_defense(spec), smooth(), pictures()
    model = Defended(inner, purifier)
    (purified,) = purifier.purify(clip, purifier.seeds(clip))
    assert torch.allclose(classify(model, clip), classify(inner, purified))
    with torch.enable_grad():
        assert torch.allclose(run(model, clip.detach()), classify(inner, purified)), "with a gradient, too"


def test_a_verdict_depends_on_the_clip_s_name_and_not_on_its_batch() -> None:
    clip = replace(pictures(), ids=("a", "b", "c"))
    model = Defended(smooth(), Jitter())
    together = classify(model, clip)
    assert torch.equal(classify(model, clip.select([2, 0]))[0], together[2])
    assert not torch.allclose(classify(model, replace(clip, ids=("d", "e", "f"))), together)
    assert not torch.allclose(classify(Defended(model.undefended, Jitter(seed=1)), clip), together)


# --- gradient modes ---


def test_bpda_of_the_identity_is_exact() -> None:
    exact = gradient(Defended(smooth(), Identity()), pictures())
    assert torch.allclose(gradient(Defended(smooth(), Identity(gradient="bpda")), pictures()), exact)
    assert torch.allclose(exact, gradient(smooth(), pictures()))


def test_of_a_constant_answer_the_exact_gradient_is_zero_and_bpda_is_not() -> None:
    assert (gradient(Defended(smooth(), Grey()), pictures()) == 0).all()
    found = gradient(Defended(smooth(), Grey(gradient="bpda")), pictures())
    at_grey = gradient(smooth(), pictures().with_signal("video", torch.full_like(pictures().video, 0.4)))
    assert torch.allclose(found, at_grey)
    assert found.abs().max() > 0


def test_of_a_shift_both_are_equal_and_of_a_scale_exact_is_the_scale_more() -> None:
    shifted = [gradient(Defended(smooth(), Scaled(gradient=mode, c=0.1)), pictures()) for mode in ("exact", "bpda")]
    assert torch.allclose(*shifted)
    scaled = [gradient(Defended(smooth(), Scaled(gradient=mode, a=0.5)), pictures()) for mode in ("exact", "bpda")]
    assert torch.allclose(scaled[0], 0.5 * scaled[1])


@pytest.mark.parametrize("copies", [2, 7])
def test_copies_of_a_vote_have_the_gradient_of_one(copies: int) -> None:
    one = gradient(Defended(smooth(), Identity(gradient="bpda")), pictures())
    many = gradient(Defended(smooth(), Identity(gradient="bpda", copies=copies)), pictures())
    assert torch.allclose(many, one)


@pytest.mark.parametrize(
    "spec", ["wavelet(sigma=0.05)", "median", "temporal_shuffle(votes=3)", "differentiable_jpeg(quality=60)", "ape_gan"]
)
def test_exact_gradients_are_those_of_finite_differences(spec: str, tmp_path_factory: Any) -> None:
    if spec == "ape_gan":
        spec = f"ape_gan(file={generator_file(tmp_path_factory.mktemp('generator'))!r})"
    model = Defended(smooth(), load_defense(spec)).double().eval()
    random = torch.Generator().manual_seed(1)
    video = 0.2 + 0.6 * torch.rand(1, *PICTURES, generator=random, dtype=torch.float64)  # no two pixels are equal
    clip = Clip(video)
    found = gradient(model, clip)

    def value(video: Tensor) -> Tensor:
        votes = model.votes(Clip(video))
        return (votes[..., 1] - votes[..., 0]).mean()

    for _ in range(3):
        direction = torch.randn(clip.video.shape, generator=random, dtype=torch.float64)
        with torch.no_grad():
            slope = (value(clip.video + 1e-6 * direction) - value(clip.video - 1e-6 * direction)) / 2e-6
        assert torch.allclose((found * direction).sum(), slope, rtol=1e-4, atol=1e-8)


def test_bpda_with_a_surrogate_goes_back_through_it_from_the_real_answer() -> None:
    """Forward ``x + 0.1``, backward the factor of the surrogate, 0.25."""
    through = Scaled(gradient="bpda", surrogate=Scaled(a=0.25), c=0.1)
    identity = gradient(Defended(smooth(), Scaled(gradient="bpda", c=0.1)), pictures())
    assert torch.allclose(gradient(Defended(smooth(), through), pictures()), 0.25 * identity)


@pytest.mark.parametrize("options", ["", ", surrogate=differentiable_jpeg(quality=40)"])
def test_bpda_of_jpeg_goes_back_through_its_differentiable_version(options: str) -> None:
    blurred = load_defense(f"jpeg(quality=40{options})")
    model, inner = Defended(smooth(), blurred), smooth()
    (purified,) = blurred.purify(pictures(), [0] * 3)
    outer = gradient(inner, purified)
    video = pictures().video.requires_grad_()
    (stand_in,) = load_defense("differentiable_jpeg(quality=40)").purify(Clip(video), [0] * 3)
    (expected,) = torch.autograd.grad(stand_in.video, video, outer)
    assert torch.allclose(gradient(model, pictures()), expected)
    assert torch.allclose(
        gradient(Defended(smooth(), load_defense("jpeg(quality=40, surrogate=identity)")), pictures()), outer
    )


def test_votes_are_paired_with_those_of_the_surrogate() -> None:
    """Four real votes in grey, a surrogate of two (the clip and its negative): gradients of opposite sign cancel."""

    model = Defended(smooth(), Jitter(gradient="bpda", surrogate=TwoViews(), votes=4, sigma=0.0))
    assert gradient(model, pictures()).abs().max() < 1e-12
    odd = Defended(smooth(), Jitter(gradient="bpda", surrogate=TwoViews(), votes=3, sigma=0.0))
    assert torch.allclose(gradient(odd, pictures()), gradient(smooth(), pictures()) / 3)


def test_the_surrogate_mode_takes_the_gradient_behind_the_surrogate() -> None:
    model = Defended(smooth(), Grey(gradient="surrogate", surrogate=Scaled(a=0.5, c=0.2)))
    assert torch.allclose(gradient(model, pictures()), gradient(Defended(smooth(), Scaled(a=0.5, c=0.2)), pictures()))
    assert torch.allclose(classify(model, pictures()), classify(Defended(smooth(), Grey()), pictures()))


@pytest.mark.parametrize("purifier", [Jitter(gradient=None, sigma=0.05), load_defense("jpeg(gradient=none)")])
def test_gray_box_is_a_transfer_attack(purifier: Purifier) -> None:
    """The climb on a model behind a hidden purifier ends where that on the model itself does."""
    inner, clip, labels = smooth(), pictures(), alternating(3)
    defended = Defended(inner, purifier)
    climb = Ascent(CrossEntropy(), plain, SteepestStep(0.25), 5, random_start=True, early_stop=False, last=True)
    attack = PGD(eps=8 / 255)
    with at_rest(defended):
        gray = climb(attack.problem(defended, clip, labels))
        white = climb(attack.problem(inner, clip, labels))
    assert torch.equal(gray.clip.video, white.clip.video)
    moved = transferred(white, defended, labels, targeted=False)
    assert torch.equal(gray.logits, moved.logits)
    assert torch.equal(gray.success, moved.success)
    aware = climb(attack.problem(Defended(inner, replace(purifier, gradient="bpda")), clip, labels))
    assert not torch.equal(aware.clip.video, gray.clip.video)


def test_a_hidden_purifier_is_hidden_inside_a_long_video_too() -> None:
    hidden, clip = Defended(smooth(), Grey(gradient=None)), clips(2, shape=(3, 8, 16, 16))
    found = gradient(Windowed(hidden, window=4), clip)
    assert torch.allclose(found, gradient(Windowed(smooth(), window=4), clip))
    assert not torch.allclose(found, gradient(Windowed(Defended(smooth(), Grey()), window=4), clip))


def test_a_hidden_purifier_still_answers_queries() -> None:
    """The mode is about gradients: a black-box attack asks the defended model."""
    inner = Watched(smooth())
    model = Defended(inner, Grey(gradient=None))
    result = Square(queries=20)(model, pictures(), alternating(3))
    assert torch.allclose(result.logits, classify(Defended(smooth(), Grey()), pictures()))


# --- votes and draws ---


def test_an_attack_ascends_the_mean_over_the_votes() -> None:
    """Not the objective of the mean logits, which is another one."""
    model = Defended(Linear(weights(PICTURES), scale=0.1), Jitter(votes=3, sigma=0.3))
    clip, labels = pictures(), alternating(3)
    problem = problem_for(model, clip, labels, Linf(8 / 255))
    value, logits = CrossEntropy()(problem, clip)
    votes = model.votes(clip)
    singles = [torch.nn.functional.cross_entropy(vote, labels, reduction="none") for vote in votes.unbind(1)]
    assert torch.allclose(value, torch.stack(singles).mean(0))
    assert torch.equal(logits, model(clip))
    assert not torch.allclose(value, torch.nn.functional.cross_entropy(votes.mean(1), labels, reduction="none"))


def test_the_mean_can_be_the_verdict() -> None:
    votes = Defended(smooth(), Jitter(votes=3)).votes(pictures())
    mean = Defended(smooth(), Jitter(votes=3, aggregate="mean"))(pictures())
    assert torch.allclose(mean, votes.mean(1))


def test_eot_draws_afresh_in_every_step_and_copy_and_never_as_the_verdict() -> None:
    """Of a linear model behind a shuffle the true gradient is the weight averaged over time."""
    model = Defended(Linear(weights(PICTURES)), load_defense("temporal_shuffle"))
    clip, labels = pictures(2), torch.zeros(2, dtype=torch.long)
    problem = problem_for(model, clip, labels, Linf(8 / 255))
    zero = (torch.zeros_like(clip.video),)
    expected = weights(PICTURES).mean(1, keepdim=True).expand(PICTURES)
    found = Expectation(plain, 400, 50)(problem, Margin(), zero, 0).gradients[0]
    single = plain(problem, Margin(), zero).gradients[0]
    assert (found - expected).square().mean() < 0.01 * (single - expected).square().mean()
    steps = [Expectation(plain, 1)(problem, Margin(), zero, step).gradients[0] for step in (0, 0, 1)]
    assert torch.equal(steps[0], steps[1])
    assert not torch.equal(steps[0], steps[2])


def test_a_single_copy_draws_as_the_verdict_unless_draws_are_to_be_fresh() -> None:
    model = Defended(smooth(), Jitter(votes=2))
    problem = problem_for(model, pictures(), alternating(3), Linf(8 / 255))
    zero = (torch.zeros_like(problem.clip.video),)

    def gradients(attack: PGD) -> list[torch.Tensor]:
        estimate = attack.expectation()
        return [estimate(problem, Margin(), zero, step).gradients[0] for step in (0, 1)]

    known = plain(problem, Margin(), zero).gradients[0]
    assert all(torch.equal(found, known) for found in gradients(PGD()))
    first, second = gradients(PGD(fresh_draws=True))
    assert not torch.allclose(first, known)
    assert not torch.allclose(first, second)


@pytest.mark.parametrize(
    "attack", [PGD(steps=3, eot=4), PGD(steps=3), PGD(steps=3, fresh_draws=True), APGDCE(steps=30, eot=2)]
)
def test_an_attack_on_a_defence_that_draws_does_not_depend_on_the_batch(attack: PGD) -> None:
    model = Defended(smooth(), Jitter(votes=2))
    clip, labels = pictures(), alternating(3)
    together = attack(model, clip, labels)
    assert torch.equal(together.clip.video, attack(model, clip, labels).clip.video)
    for i in range(3):
        alone = attack(model, clip.select([i]), labels[i : i + 1])
        assert torch.equal(alone.clip.video[0], together.clip.video[i])
        assert alone.success[0] == together.success[i]


def test_purifications_are_counted_through_copies_of_the_model() -> None:
    model = Defended(ConvNet().double().eval(), Jitter(votes=2))
    classify(model, pictures())
    assert model.passes.clips == 6
    result = PGD(steps=3, early_stop=False)(model, pictures(), torch.tensor([0, 1, 2]))
    assert model.passes.clips == 6 + 2 * int(result.forward_passes.sum())


def test_votes_are_recomputed_one_by_one_for_the_gradient() -> None:
    inner = Watched(smooth())
    gradient(Defended(inner, Jitter(votes=3)), pictures())
    assert inner.tally.forwards("0") == 6, "three votes, and three more for the backward pass"
    kept = gradient(Defended(smooth(), Identity(copies=2)), pictures())
    assert torch.allclose(kept, gradient(smooth(), pictures()))


@pytest.mark.parametrize("mode", ["exact", "bpda"])
def test_a_gradient_twin_of_it_has_the_same_gradient(mode: Any) -> None:
    model = Defended(ConvNet().double().eval(), Jitter(votes=2, gradient=mode))
    clip = clips(2, shape=PICTURES)
    twin = gradient_twin(model, "fp32")
    assert twin is not model
    assert isinstance(twin, Voting)
    assert torch.allclose(gradient(twin, clip), gradient(model, clip), rtol=1e-9, atol=1e-12)


def test_the_purifier_s_network_is_part_of_the_model(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = generator_file(tmp_path_factory.mktemp("generator"))
    model = Defended(ConvNet(), load_defense(f"ape_gan(file={file!r})"))
    assert model.network is not None
    assert {id(p) for p in model.network.parameters()} <= {id(p) for p in model.parameters()}
    with at_rest(model):
        assert not any(p.requires_grad for p in model.parameters())


def test_a_surrogate_of_the_same_weights_works_with_the_same_network(tmp_path: Path) -> None:
    file = f"model={denoiser_file(tmp_path)!r}"
    for spec, shared in (
        (f"videopure({file}, gradient=surrogate, flow=none)", True),
        (f"videopure({file}, gradient=surrogate, surrogate=ddim_inversion({file}, substeps=2))", True),
        (f"videopure({file}, gradient=surrogate, surrogate=ddim_inversion({file}, precision=bf16))", False),
    ):
        model = Defended(smooth().float(), load_defense(spec))
        assert model.surrogate is not None
        assert (diffusion_of(model.surrogate) is diffusion_of(model)) is shared


def diffusion_of(model: Defended) -> Any:
    assert isinstance(model.network, torch.nn.ModuleDict)
    return model.network["diffusion"]


def test_what_one_purifier_has_more_than_the_other_is_not_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustvideo.purification.videopure.load_raft", lambda: torch.nn.Linear(1, 1))
    file = f"model={denoiser_file(tmp_path)!r}"
    plain = Defended(smooth().float(), load_defense(f"ddim_inversion({file})"))
    guided = load_defense(f"videopure({file}, flow=raft)")
    more = Defended(smooth().float(), guided, plain.shared_with(guided))
    back = more.shared_with(plain.purifier)
    assert diffusion_of(more) is diffusion_of(plain)
    assert isinstance(more.network, torch.nn.ModuleDict)
    assert isinstance(back, torch.nn.ModuleDict)
    assert (list(plain.network or ()), list(more.network), list(back)) == (
        ["diffusion"],
        ["diffusion", "flow"],
        ["diffusion"],
    )


def test_passes_of_the_diffusion_network_are_counted_by_clip(tmp_path: Path) -> None:
    file = f"model={denoiser_file(tmp_path)!r}"
    model = Defended(ConvNet().eval(), load_defense(f"videopure({file}, flow=none)"))
    clip = clips(3, shape=PICTURES)
    classify(model, clip.with_signal("video", clip.video.float()))
    assert model.diffusion_passes == 3 * 12
    assert Defended(smooth(), load_defense("median")).diffusion_passes == 0
