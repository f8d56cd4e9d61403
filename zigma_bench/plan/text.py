"""The text of a data set, resolved: which encoder makes features of its captions, how many tokens, what is missing."""

from __future__ import annotations

from zigma_bench.errors import UsageError, ZigmaBenchError
from zigma_bench.plan.cells import TextFeatures
from zigma_bench.plugins.registry import Condition, DataFacts, Missing
from zigma_bench.pretrained import text_encoders as encoders
from zigma_bench.suite import TextEncoder


def text_of(given: TextEncoder, facts: DataFacts, name: str, where: str) -> tuple[TextFeatures, tuple[Missing, ...]]:
    """The features of a data set's captions, and what is missing to make them or to read them.

    Where they are kept already nothing is, not even the encoder. UsageError for data without captions, and for more
    tokens than the encoder takes.
    """
    if not facts.captions:
        raise UsageError(
            f"the data set {name!r} has no captions to encode", where=where,
            do="name their column with its option caption, or leave text out",
        )  # fmt: skip
    try:
        encoder = encoders.describe(given.encoder, given.revision, given.cache)
    except ZigmaBenchError as error:
        raise error.at(where) from None
    if encoder.limit is not None and given.tokens > encoder.limit:
        raise UsageError(
            f"the encoder {given.encoder!r} takes fewer tokens", where=where, expected=f"at most {encoder.limit}",
            got=given.tokens, do="lower tokens",
        )  # fmt: skip
    features = TextFeatures(
        encoder=given.encoder,
        revision=given.revision,
        fingerprint=encoder.fingerprint,
        images=facts.fingerprint,
        width=encoder.width,
        tokens=given.tokens,
        mask=given.mask,
        cache=given.cache,
    )
    if (kept := encoders.kept(features.folder)) is None:
        return features, encoder.missing
    return features.model_copy(update={"width": int(kept["fields"]["features"]["shape"][1])}), ()


def condition_of(features: TextFeatures) -> Condition:
    """What the features are to a network."""
    return Condition("text", features.width or 0, tokens=features.tokens, masked=features.mask)
