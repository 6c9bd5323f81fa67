"""Are the answers of a chat model turned by adversarial clips? The protocol of a demonstration (AV appendix D).

The paper tries 100 clips and counts successes without saying what one is. Here a clip qualifies if the answer about
the clean clip names its class, and the attack succeeds if the answer about the adversarial one does not. Rates are of
the qualified clips and of all. As controls, try clips with noise of the same size, and clean clips that went through
the same file format: they come the same way as adversarial ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from robustvideo.clip import Clip
from robustvideo.errors import InputError
from robustvideo.evaluation.metrics import Interval, wilson
from robustvideo.models.chat import QUESTION, Chat


@dataclass(frozen=True)
class Exchange:
    """What was said about one clip.

    Attributes:
        clip: its id.
        label: the name of its class.
        clean, adversarial: the answers.
        qualified: the clean answer names the class.
        success: it qualified, and the adversarial answer does not name the class.
        other: another class that the adversarial answer names, if it does.
    """

    clip: str
    label: str
    clean: str
    adversarial: str
    qualified: bool
    success: bool
    other: str | None


def names(answer: str, words: Sequence[str]) -> bool:
    """Does an answer hold one of the words or phrases, as whole words, in whatever case?"""
    return any(re.search(rf"\b{re.escape(word.casefold())}\b", answer.casefold()) for word in words)


def converse(
    chat: Chat,
    clean: Sequence[Clip],
    adversarial: Sequence[Clip],
    labels: Sequence[str],
    synonyms: Mapping[str, Sequence[str]],
    question: str = QUESTION,
) -> list[Exchange]:
    """Ask about clean and adversarial clips.

    Args:
        chat: the victim.
        clean: clips of one each.
        adversarial: the same clips, disturbed.
        labels: the classes' names, one per clip.
        synonyms: class -> what an answer may call it; its name (underscores as spaces) always counts.
        question: what is asked.

    Raises:
        InputError: lists of different lengths.
    """
    if not len(clean) == len(adversarial) == len(labels):
        raise InputError("There must be as many adversarial clips and labels as clean clips.")
    called = {name: (name.replace("_", " "), *synonyms.get(name, ())) for name in {*labels, *synonyms}}
    found = []
    for before, after, label in zip(clean, adversarial, labels, strict=True):
        first, second = chat.ask(before, question), chat.ask(after, question)
        qualified = names(first, called[label])
        other = next((name for name in sorted(called) if name != label and names(second, called[name])), None)
        success = qualified and not names(second, called[label])
        found.append(Exchange(before.ids[0], label, first, second, qualified, success, other))
    return found


def success_of_qualified(exchanges: Sequence[Exchange]) -> Interval:
    """Successes of the clips that the model names undisturbed, with Wilson's interval."""
    return wilson(sum(e.success for e in exchanges), sum(e.qualified for e in exchanges))


def success_of_all(exchanges: Sequence[Exchange]) -> Interval:
    """Successes of all clips, as the paper counts them, with Wilson's interval."""
    return wilson(sum(e.success for e in exchanges), len(exchanges))
