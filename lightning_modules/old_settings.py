"""Settings as earlier versions had them: refused, with what they are now."""

from __future__ import annotations

import re

# The objective had a key for each term; now it lists classes.
TERMS = {
    "forward": "ForwardNLL",
    "autoencode": "Autoencode",
    "kl": "FullTextKL",
    "query": "QueryNLL",
    "expand": "ExpandNLL",
    "contrast": "Contrast",
    "backward": "BackwardCE",
    "cycle": "Cycle",
    "residual": "Residual",
}
# How jsonargparse names what it does not know: as an option, or as a key, alone or under its parents.
KEY = re.compile(rf"(?:--|')(?:model\.)?(?:objective\.)?({'|'.join(TERMS)})(?:\.[\w.]+)?(?:=|'| )")


def new_form(message: str) -> str | None:
    """What to write instead of a setting of an earlier version.

    Args:
        message: What the parser says of a setting that it does not know.

    Returns:
        One line; None if the setting was never known.
    """
    found = KEY.search(message) if "objective" in message.lower() else None
    if found is None:
        return None
    return (
        f"the objective has no setting {found[1]!r}: it lists its terms, all that are to count, as in `terms: "
        f"[{{class_path: r3mem.objectives.{TERMS[found[1]]}, init_args: {{weight: 1.0}}}}]` under model.objective; on "
        f"the command line --model.objective.terms+=r3mem.objectives.{TERMS[found[1]]} adds one"
    )
