"""The lines of the trust protocol about what a defence does: its draws, its stand-ins in gradients, its parts."""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

import torch
from torch import Tensor

from robustvideo.attacks.attack import AttackResult
from robustvideo.attacks.objectives import Margin
from robustvideo.evaluation.metrics import CONFIDENCE
from robustvideo.evaluation.resubmission import compared, mean_correct
from robustvideo.evaluation.trust.check import (
    ABLATION,
    RANDOMNESS,
    SUBSTITUTION,
    Check,
    Grade,
    at_most,
    count,
    not_applicable,
)
from robustvideo.evaluation.trust.from_records import DOUBTFUL, TOLERANCE
from robustvideo.evaluation.trust.subject import Subject
from robustvideo.model import Routed, at_rest, route
from robustvideo.purification import Defended, Purifier

DRAWS = 8
"""Submissions of every clip, and copies of the expectation, for a model that draws."""

Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
"""Standard errors on each side of an interval."""

ROUNDING = 1e-3
"""Two answers to one clip that differ by less than this share of the largest logit are the same answer."""


def randomness(subject: Subject, base: AttackResult) -> Check:
    """A model that draws is attacked in expectation over its draws, and gives one clip one verdict.

    A model whose answer to the same clip changes has no robust accuracy to speak of: a failure. One that draws from
    the clip's name is attacked again with gradients averaged over 8 draws (or as many as the attack has), and the clips
    are submitted 8 times. By how much the attack's own verdicts are more favourable than the probability that such a
    submission is right is known up to the luck of the draws (`flattery`): the number is what it is likely to be at
    least, one standard error below the mean over clips. More is a warning; a failure needs the whole 95 % interval
    above five points, and more than one clip. (It is negative for an attack without ``eot``, which knows the draws of
    its verdict.) Beside it stand the share right in all of 8 submissions, attacked and clean, and how two independent
    gradients agree, alone and averaged over 8, which tells how many an expectation needs: where averaging helps much,
    an attack without it is a warning.

    Args:
        subject: what is examined.
        base: what its attack found.
    """
    first, second = subject.twice().unbind(1)
    clean = subject.submissions(subject.clip, DRAWS)
    steady = _same(first, second)
    if steady and _same(clean, clean[:, :1].expand_as(clean)):
        meaning = "The same clip gets the same answer every time, under every name."
        return Check(RANDOMNESS, "pass", 0.0, TOLERANCE, meaning, unit="%")
    labels = subject.labels.cpu()
    again = compared(clean, subject.submissions(base.clip, DRAWS), labels)
    worst = (
        f"Right in all of {DRAWS} submissions: {again.adversarial.worst.estimate:.0%} of attacked clips, "
        f"{again.clean.worst.estimate:.0%} of clean ones."
    )
    if not steady:
        meaning = f"The same clip gets other answers when asked again, outside the control of any seed. {worst}"
        advice = (
            "Draw from the clip's name and a seed (robustvideo.randomness), attack in expectation over the draws "
            "(eot=), and quote the accuracy over several submissions beside the clean one."
        )
        share = float((first - second).abs().amax(1).gt(0).double().mean())
        return Check(RANDOMNESS, "fail", share, 0.0, meaning, advice, "%")
    averaged = base if subject.attack.eot >= DRAWS else subject.run(replace(subject.attack, eot=DRAWS))
    stood = (~base.success).cpu()
    right = mean_correct(subject.submissions(averaged.clip, DRAWS), labels)
    gaps, error = flattery(stood, right, DRAWS)
    mean = float(gaps.mean())
    low, high = mean - Z * error, mean + Z * error
    share = mean - error
    one, many = (_agreement(subject, copies) for copies in (1, DRAWS))
    meaning = (
        f"The model draws. The attack's verdicts leave {stood.double().mean():.0%} of {count(len(subject), 'clip')}; "
        f"submitted anew after gradients averaged over {max(DRAWS, subject.attack.eot)} draws, {right.mean():.0%} are "
        f"right: a difference of {100 * mean:.0f} points [{100 * low:.0f}, {100 * high:.0f}]. "
        f"Two gradients have a cosine of {one:.2f} alone and {many:.2f} averaged. {worst}"
    )
    grade = flattery_grade(gaps, error)
    if grade == "pass" and subject.attack.eot == 1 and many - one > 0.1:
        grade = "warn"
    advice = f"Attack with eot={DRAWS} or more, until doubling it changes nothing, and quote worst-of-m beside clean."
    return Check(RANDOMNESS, grade, share, TOLERANCE, meaning, "" if grade == "pass" else advice, "%")


def flattery(stood: Tensor, right: Tensor, draws: int) -> tuple[Tensor, float]:
    """By how much verdicts are more favourable than further submissions, and what chance adds to it.

    A verdict is a single draw. Of a clip that is right with probability p, it differs from the mean of m further draws
    with variance ``p (1 - p) (1 + 1 / m)``; p is the share right among all m + 1, of which one is taken for wrong and
    one for right so that agreement by chance is no certainty. Paired: clips that are always right or wrong add little.

    Args:
        stood: (B,) bool: the clip stands by the attack's verdict.
        right: (B,) share of the further submissions that are right.
        draws: how many these were.

    Returns:
        (B,) differences per clip, and the standard error of their mean under the draws.
    """
    gaps = stood.double() - right
    p = (stood.double() + draws * right + 1) / (draws + 3)
    return gaps, float((p * (1 - p) * (1 + 1 / draws)).sum().sqrt() / len(gaps))


def flattery_grade(gaps: Tensor, error: float) -> Grade:
    """A failure is beyond the luck of the draws, and of more than one clip; a warning is likely."""
    mean = float(gaps.mean())
    others = float(gaps.sum() - gaps.max()) / len(gaps)  # one clip of a few is no trend
    if mean - Z * error > DOUBTFUL and others > TOLERANCE:
        return "fail"
    return "warn" if mean - error > TOLERANCE else "pass"


def substitution(subject: Subject, base: AttackResult) -> Check:
    """Where a gradient passes through a stand-in or a hard choice, another way through it finds no more.

    * A purifier that the gradient does not know at all is a failure.
    * With stand-ins (bpda, surrogate) the attack is repeated with the exact gradient where there is one, and the
      other way round; the number is the share of clips that only the other way breaks. The stand-in's error is told.
    * In a mixture of experts the number is the share of clips whose gradient does not reach the router.

    Args:
        subject: what is examined.
        base: what its attack found.
    """
    model = subject.model
    if isinstance(model, Defended):
        return _of_purifier(subject, model, base)
    if isinstance(subject.problem.gradient_model, Routed):
        return _of_router(subject)
    return not_applicable(SUBSTITUTION, "There is no purifier and no router: gradients need no stand-in.")


def _of_purifier(subject: Subject, model: Defended, base: AttackResult) -> Check:
    purifier = model.purifier
    if purifier.gradient is None:
        share = float((~base.success).double().mean())
        meaning = "The gradient is the undefended model's: the attack does not know the defence."
        advice = "Use gradient=exact, or gradient=bpda where the purifier cannot be differentiated."
        return Check(SUBSTITUTION, "fail", share, 0.0, meaning, advice, "%")
    other = _other_way(purifier)
    error = _stand_in_error(subject, model)
    if other is None:
        progress = _progress(subject)
        grade = at_most(1 - progress, 0.25, 0.5)
        meaning = (
            f"It cannot be differentiated, and mode {purifier.gradient} is the only gradient. A step of the whole "
            f"budget along it raises the loss of {progress:.0%} of the clips; the stand-in misses the purified clip by "
            f"{error:.1f} grey levels (root mean square)."
        )
        advice = "Give it a better surrogate=, add noise (eot_noise=), and attack without gradients (square)."
        return Check(SUBSTITUTION, grade, 1 - progress, 0.25, meaning, "" if grade == "pass" else advice, "%")
    standing = (~base.success).nonzero()[:, 0]
    gained = 0
    if len(standing):
        twin = Defended(model.undefended, other, model.network)  # another gradient through the same network
        gained = int(subject.select(standing).run(model=twin).success.sum())
    share = gained / len(subject)
    meaning = (
        f"{gained} of {count(len(subject), 'clip')} stand against gradients in mode {purifier.gradient} and fall to "
        f"those in mode {other.gradient}; the stand-in misses the purified clip by {error:.1f} grey levels (root mean "
        "square)."
    )
    grade = at_most(share, TOLERANCE, DOUBTFUL)
    advice = f"Attack with gradient={other.gradient} as well, and quote the worst case of both per clip."
    return Check(SUBSTITUTION, grade, share, TOLERANCE, meaning, "" if grade == "pass" else advice, "%")


def _other_way(purifier: Purifier) -> Purifier | None:
    """The same purifier with the gradient that it is not evaluated with; None where there is no other."""
    if purifier.gradient == "exact":
        return replace(purifier, gradient="bpda")
    if purifier.differentiable:
        return replace(purifier, gradient="exact", surrogate=None)
    return replace(purifier, gradient="bpda") if purifier.gradient == "surrogate" else None


@torch.no_grad()
def _stand_in_error(subject: Subject, model: Defended) -> float:
    """Root mean square distance, in grey levels, of the purified clips from the stand-in's (or the clips as such)."""
    errors = []
    for row in range(len(subject)):
        clip = subject.clip.select([row])
        with at_rest(model):
            purified = model.purified(clip)
            stand_ins = (clip,) if model.surrogate is None else model.surrogate.purified(clip)
        for i, vote in enumerate(purified):
            missed = vote.video - stand_ins[i * len(stand_ins) // len(purified)].video
            errors.append(missed.double().square().mean())
    return float(255 * torch.stack(errors).mean().sqrt())


def _progress(subject: Subject) -> float:
    """Share of clips whose margin rises after one step of the whole budget along the sign of its gradient."""
    step = subject.eps * subject.gradient(subject.clip, Margin()).sign()
    ahead = subject.clip.with_signal("video", (subject.clip.video + step).clamp(0, 1))
    return float((subject.margin(ahead) > subject.margin(subject.clip)).double().mean())


def _of_router(subject: Subject) -> Check:
    twin = subject.problem.gradient_model
    with at_rest(subject.model), torch.inference_mode(False), torch.enable_grad():
        video = subject.clip.video.detach().clone().requires_grad_()
        routing = route(twin, subject.clip.with_signal("video", video))
        if routing.router_logits.shape[1] < 2:
            return not_applicable(SUBSTITUTION, "The mixture has a single expert: there is nothing to choose.")
        value = routing.logits.gather(1, subject.labels[:, None]).sum()
        gradient = None
        if routing.router_logits.requires_grad and value.requires_grad:
            (gradient,) = torch.autograd.grad(value, [routing.router_logits], allow_unused=True)
    blind = torch.ones_like(subject.labels, dtype=torch.bool) if gradient is None else (gradient == 0).all(1)
    share = float(blind.double().mean())
    meaning = f"No gradient reaches the router on {int(blind.sum())} of {count(len(subject), 'clip')}."
    grade = at_most(share, 0.0, DOUBTFUL)
    advice = (
        "A hard choice hides the other experts from the attack: take gradients with gate=kept or "
        "gate=straight_through, and attack the router as well (tlga_r, j_tlga)."
    )
    return Check(SUBSTITUTION, grade, share, 0.0, meaning, "" if grade == "pass" else advice, "%")


def ablation(subject: Subject, base: AttackResult) -> Check:
    """What the defence adds: robust accuracy with it minus without it, each under the same attack on itself.

    On the clips that the defended model recognises; one that the undefended model misses counts as lost without it.

    Args:
        subject: what is examined.
        base: what its attack found.
    """
    model = subject.model
    if not isinstance(model, Defended):
        return not_applicable(ABLATION, "There is no defence in front of the model.")
    with_it = float((~base.success).double().mean())
    bare = subject.run(model=model.undefended)
    without = float((~bare.success).double().mean())
    gain = with_it - without
    meaning = (
        f"Under the same attack on itself, the model keeps {with_it:.0%} of {count(len(subject), 'clip')} behind the "
        f"defence and {without:.0%} without it."
    )
    grade: Grade = "pass" if gain >= TOLERANCE else "warn"
    advice = "The defence adds nothing at this budget: quote the undefended model beside it."
    return Check(ABLATION, grade, gain, TOLERANCE, meaning, "" if grade == "pass" else advice, "%", "at least")


def _agreement(subject: Subject, copies: int) -> float:
    """The mean cosine of two independent gradients, each averaged over so many draws."""
    first, second = (
        torch.stack([_gradient_under(subject, f"{side}/{n}") for n in range(copies)]).mean(0).flatten(1)
        for side in (0, 1)
    )
    return float(torch.nn.functional.cosine_similarity(first, second, dim=1).mean())


def _gradient_under(subject: Subject, name: str) -> Tensor:
    clip = subject.clip
    return subject.gradient(replace(clip, ids=tuple(f"{own}/trust/{name}" for own in clip.ids)), Margin())


def _same(first: Tensor, second: Tensor) -> bool:
    return bool((first - second).abs().max() <= ROUNDING * first.abs().max())
