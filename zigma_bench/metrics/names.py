"""What the measures on features are called: by what is measured, the extractor, and whose weights it has.

`fid`, `kid`, `is`, `precision` ... stand for Inception v3 with the published weights alone, `fd-efflite0`,
`precision-dinov2` ... for another extractor, and weights that are not the published ones add the start of their sha256.
"""

from __future__ import annotations

from typing import Literal, get_args

Efflite = Literal["efflite0", "efflite2"]  # the extractors whose weights come with an installation
Family = Literal["inception", "efflite0", "efflite2", "dinov2", "clip"]
Kind = Literal["fd", "fd-infinity", "kid", "precision", "recall", "density", "coverage", "is"]

EFFLITES: tuple[Efflite, ...] = get_args(Efflite)
FAMILIES: tuple[Family, ...] = get_args(Family)
KINDS: tuple[Kind, ...] = get_args(Kind)
OF_ALL = KINDS[:-1]  # the Inception score alone belongs to one extractor
INFINITY = "-infinity"


def metric_name(kind: Kind, family: Family, *, sha8: str | None = None) -> str:
    """`fid`, `fd-efflite0-infinity`, `kid-inception-1a2b3c4d`; `sha8` is None for the published weights."""
    base = kind.removesuffix(INFINITY)
    if family == "inception" and sha8 is None:
        stem = "fid" if base == "fd" else base
    else:
        stem = f"{base}-{family}" + (f"-{sha8}" if sha8 else "")
    return stem + (INFINITY if kind.endswith(INFINITY) else "")
