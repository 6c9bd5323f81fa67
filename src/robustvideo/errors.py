"""The errors that a user is meant to read.

Every one is a single sentence that says what is wrong and what to do. The command line prints it without a
traceback and exits with a non-zero status; library code lets it pass.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LISTED = 12
"""Names that a message lists where none is near."""


class RobustVideoError(Exception):
    """Base of every error that this package raises on purpose."""


class InputError(RobustVideoError):
    """Something the caller gave (a file, a budget, a name, a model's output) cannot be used as it is."""


class ConstraintViolated(RobustVideoError):
    """An attack returned a clip outside its threat model: a defect of the attack, never of the input."""


class RunConflict(RobustVideoError):
    """A run directory belongs to another configuration, or was written by a newer version."""


class RobustVideoWarning(UserWarning):
    """Something that works, and probably not as the caller thinks; a sentence, like the errors."""


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """An error for a name that does not exist, with the nearest ones that do."""
    choices = sorted(known)
    plain = {choice.lower(): choice for choice in choices}
    near = [plain[found] for found in difflib.get_close_matches(name.lower(), plain, n=3, cutoff=0.5)]
    if near:
        hint = f"did you mean {' or '.join(repr(n) for n in near)}?"
    elif len(choices) > LISTED:
        hint = f"known: {', '.join(choices[:LISTED])} ... and {len(choices) - LISTED} more."
    else:
        hint = f"known: {', '.join(choices)}." if choices else "none is registered."
    return InputError(f"Unknown {kind} {name!r}: {hint}")
