"""The warning before work on a network that nobody trained."""

from __future__ import annotations

import sys


def warn_of_untrained(*models: str) -> None:
    """Say on stderr which networks of these model specs have no weights: what is found of them means nothing."""
    from robustvideo.models.loading import untrained

    for spec in dict.fromkeys(network for model in models for network in untrained(model)):
        print(
            f"Warning: {spec} has no weights: what it says is random. Name trained ones with checkpoint=<file>, or "
            "weights= where the network has its own.",
            file=sys.stderr,
        )
