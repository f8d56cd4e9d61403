"""Text encoders: the built-in ones and any pretrained text model of `transformers`.

The features are the last hidden state, in float32, with TF32 off. CLIP's text model gets no mask, as in latent
diffusion and ZigMa. Its attention is causal, so this changes only the features of the padding. Other models get the
mask.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from zigma_bench.conditioning.random_words import RandomWords
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.pretrained.text_encoders import (
    INSTALL,
    MINILM,
    MINILM_PACKAGE,
    MINILM_SHA256,
    RANDOM_WORDS,
    minilm_folder,
)
from zigma_bench.pretrained.text_model import TextModel, find_text_model

CLIP, T5 = ("clip", "clip_text_model"), {"t5": "T5", "mt5": "MT5", "umt5": "UMT5"}
BATCH = 64  # texts per forward pass

Encoded = tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], int]


class Encoder(Protocol):
    """A function from texts to their features, float32 [n, tokens, width], a mask, bool [n, tokens], that is False for
    padding, and the number of truncated texts."""

    width: int

    def __call__(self, texts: Sequence[str], tokens: int) -> Encoded: ...

    def weights_sha256(self) -> str: ...


def open_encoder(name: str, revision: str | None, device: str = "cpu") -> Encoder:
    """The encoder of a suite's section `text`; downloads a missing repository.

    Raises NotReady if the encoder or the library is missing, or if the weights of `minilm` are another file.
    """
    if name == RANDOM_WORDS:
        return RandomWords()
    if name != MINILM:
        return Transformer(find_text_model(name, revision), device)
    folder = minilm_folder()
    if folder is None:
        raise NotReady(f"the package {MINILM_PACKAGE} of the encoder is not installed", where=MINILM, do=INSTALL)
    encoder = Transformer(find_text_model(str(folder), None), device)
    if (sha256 := encoder.weights_sha256()) != MINILM_SHA256:
        raise NotReady(
            "the encoder's weights have another sha256", where=str(folder), expected=MINILM_SHA256, got=sha256,
            do=f"install {MINILM_PACKAGE} again",
        )  # fmt: skip
    return encoder


class Transformer:
    """A pretrained model of `transformers` and its tokenizer."""

    def __init__(self, model: TextModel, device: str) -> None:
        folder = model.fetch()
        transformers = _import_transformers()
        self.model, self.device = model, device
        kind = str(model.config().get("model_type"))
        self.attends_to_padding = kind in CLIP
        with _library_errors(model.name):
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            chosen = _model_class(transformers, kind, model)
            network, loading = chosen.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        _check_whole(loading, model)
        if self.tokenizer.pad_token is None:
            raise NotReady("the encoder's tokenizer has no padding token", where=str(folder), do="use another encoder")
        self.network = network.float().to(device).eval().requires_grad_(False)
        self.width = int(self.network.config.get_text_config().hidden_size)

    def weights_sha256(self) -> str:
        """The sha256 of the file of weights."""
        return self.model.weights_sha256()

    def __call__(self, texts: Sequence[str], tokens: int) -> Encoded:
        if tokens > self.tokenizer.model_max_length:
            raise UsageError(
                "the encoder can't encode so many tokens", where=self.model.name,
                expected=f"at most {self.tokenizer.model_max_length}", got=tokens, do="lower tokens",
            )  # fmt: skip
        parts = [self._encoded(texts[i : i + BATCH], tokens) for i in range(0, len(texts), BATCH)]
        features, masks, cuts = zip(*parts, strict=True)
        return np.concatenate(features), np.concatenate(masks), sum(cuts)

    def _encoded(self, texts: Sequence[str], tokens: int) -> Encoded:
        import torch

        untruncated = self.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        inputs = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=tokens, return_tensors="pt"
        ).to(self.device)
        masked = {} if self.attends_to_padding else {"attention_mask": inputs["attention_mask"]}
        with torch.no_grad(), exact_matmul():
            features = self.network(input_ids=inputs["input_ids"], **masked).last_hidden_state
        mask = inputs["attention_mask"].bool()
        return features.float().cpu().numpy(), mask.cpu().numpy(), sum(len(ids) > tokens for ids in untruncated)


@contextlib.contextmanager
def exact_matmul() -> Iterator[None]:
    """A context in which matrix products on a GPU use full float32, not TF32."""
    import torch

    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _import_transformers() -> Any:
    """The module `transformers`, set to log only errors; NotReady if it isn't installed."""
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError:
        raise NotReady("the library transformers, for text encoders, is not installed", do=INSTALL) from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _model_class(transformers: Any, kind: str, model: TextModel) -> Any:
    """The class of the text model: for CLIP the text half, for T5 the encoder half."""
    if kind in CLIP:
        return transformers.CLIPTextModel
    if kind in T5:
        return getattr(transformers, f"{T5[kind]}EncoderModel")
    if model.config().get("is_encoder_decoder"):
        raise NotReady(
            f"{kind!r} is an encoder-decoder model that is not supported", where=model.name,
            expected=f"CLIP, {', '.join(T5.values())}, or a model without a decoder", do="use another encoder",
        )  # fmt: skip
    return transformers.AutoModel


def _check_whole(loading: dict[str, Any], model: TextModel) -> None:
    """Raise NotReady if the file misses weights, which the library would initialize at random.

    The pooler may be missing, because the features don't use it.
    """
    missing = sorted(name for name in loading["missing_keys"] if "pooler" not in name)
    wrong = missing + sorted(map(str, loading.get("mismatched_keys", ())))
    if wrong:
        raise NotReady(
            f"the encoder's file misses {len(wrong)} weights of its network", where=model.name, got=wrong[0],
            do="use the model's own config.json and weights",
        )  # fmt: skip


@contextlib.contextmanager
def _library_errors(name: str) -> Iterator[None]:
    """A context that turns an error of the library into NotReady."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NotReady(f"transformers can't read the encoder: {first}", where=name) from error
