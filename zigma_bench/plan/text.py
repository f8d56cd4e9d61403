"""The text features of a data set, resolved: the encoder of its captions, the number of tokens, what is missing."""

from __future__ import annotations

from zigma_bench.errors import UsageError, ZigmaBenchError
from zigma_bench.plan.cells import TextFeatures
from zigma_bench.plugins.registry import Condition, DataFacts, Missing
from zigma_bench.pretrained import text_encoders as encoders
from zigma_bench.suite import TextEncoder


def text_of(text: TextEncoder, facts: DataFacts, name: str, where: str) -> tuple[TextFeatures, tuple[Missing, ...]]:
    """The features of a data set's captions, and what is missing to compute them.

    Nothing is missing if the features are cached, even without the encoder. Raises UsageError for data without
    captions, and for more tokens than the encoder's limit.
    """
    if not facts.captions:
        raise UsageError(
            f"the data set {name!r} has no captions to encode", where=where,
            do="name their column with its option caption, or leave text out",
        )  # fmt: skip
    try:
        encoder = encoders.describe_encoder(text.encoder, text.revision, text.cache)
    except ZigmaBenchError as error:
        raise error.at(where) from None
    if encoder.limit is not None and text.tokens > encoder.limit:
        raise UsageError(
            f"the encoder {text.encoder!r} can't encode so many tokens", where=where,
            expected=f"at most {encoder.limit}", got=text.tokens, do="lower tokens",
        )  # fmt: skip
    features = TextFeatures(
        encoder=text.encoder,
        revision=text.revision,
        fingerprint=encoder.fingerprint,
        images=facts.fingerprint,
        width=encoder.width,
        tokens=text.tokens,
        mask=text.mask,
        cache=text.cache,
    )
    if (cached := encoders.cached_features(features.folder)) is None:
        return features, encoder.missing
    return features.model_copy(update={"width": int(cached["fields"]["features"]["shape"][1])}), ()


def condition_of(features: TextFeatures) -> Condition:
    """The condition that a network gets from these features."""
    return Condition("text", features.width or 0, tokens=features.tokens, masked=features.mask)
