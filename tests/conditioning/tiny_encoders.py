"""Text encoders of `transformers` at toy size, with random weights and a tokenizer of words, written to a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

WORDS = ("<pad>", "<unk>", "<end>", "the", "digit", "a", "red", "green", "cat", "dog", "of", "many")
WIDTH, LIMIT = 16, 12


def write_encoder(folder: Path, kind: str, *, seed: int = 0) -> Path:
    """A CLIP text model, a whole CLIP, a T5, a T5 with its decoder, or a BERT."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers", reason="the extra text is not installed: transformers is absent")
    torch.manual_seed(seed)
    size = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    clip = {
        **size,
        "vocab_size": len(WORDS),
        "max_position_embeddings": LIMIT,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    t5 = {
        "vocab_size": len(WORDS), "d_model": WIDTH, "d_ff": 32, "d_kv": 8, "num_layers": 2, "num_heads": 2,
        "decoder_start_token_id": 0,
    }  # fmt: skip
    picture = {**size, "image_size": 8, "patch_size": 4}
    make = {
        "clip": lambda: transformers.CLIPTextModel(transformers.CLIPTextConfig(**clip)),
        "clip-with-pictures": lambda: transformers.CLIPModel(
            transformers.CLIPConfig(text_config=clip, vision_config=picture, projection_dim=8)
        ),
        "t5": lambda: transformers.T5EncoderModel(transformers.T5Config(**t5)),
        "t5-with-decoder": lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**t5)),
        "bert": lambda: transformers.BertModel(
            transformers.BertConfig(**size, vocab_size=len(WORDS), max_position_embeddings=LIMIT)
        ),
    }
    make[kind]().save_pretrained(folder)
    _tokenizer(transformers).save_pretrained(folder)
    return folder


def _tokenizer(transformers):
    """Words by number, each text followed by <end>."""
    import tokenizers
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    raw = tokenizers.Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    raw.pre_tokenizer = Whitespace()
    raw.post_processor = TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 2)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", eos_token="<end>", model_max_length=LIMIT
    )
