"""The vectors of each token of a text, and texts as padded features, as sentence-transformers has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sbert_ft.encoder.batching import plan_forwards
from sbert_ft.errors import InputError
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.models.inference import EmbedCount, EmbedSettings, sequences_of, warn_of_texts, windows_of_texts
from sbert_ft.tokenization.text_tokens import TextTokens, offsets_of


def token_features(model: ConnectionBert, texts: Iterable[str], settings: EmbedSettings) -> Iterator[dict[str, Tensor]]:
    """Yield what the encoder computes of each text of T tokens, special ones included, on the CPU.

    These are ``input_ids``, ``attention_mask`` and, where the encoder has them, ``token_type_ids``, shape (T,), int64;
    ``token_embeddings``, shape (T, D), and ``sentence_embedding``, shape (D,), as it is pooled; float32.

    Raises:
        InputError: `on_truncate` is ``chunk``, whose windows overlap; or as in `embed`.
    """
    if settings.on_truncate == "chunk":
        raise InputError("on_truncate is 'chunk', which has no vectors of tokens", "use warn, error or ignore")
    count, layouts = EmbedCount(), model.probe.layouts
    budget = min(settings.batch_size * settings.max_seq_length, model.token_budget)
    for window in windows_of_texts(texts):
        framed, _ = sequences_of(model.tokenizer, settings, count, window)
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for part in plan_forwards(framed.lengths, budget, model.device.type, layouts):
            batch = model.pack(framed.select(part))
            hidden = model.infer(batch)
            vectors = zip(batch.token_vectors(hidden), batch.pool(hidden, settings.pooling), strict=True)
            found |= zip(part.tolist(), vectors, strict=True)
        for i in range(len(framed)):
            ids = torch.from_numpy(framed.token_ids[slice(*framed.offsets[i : i + 2])]).long()
            features = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            if model.takes_token_types:
                features["token_type_ids"] = torch.zeros_like(ids)
            tokens, pooled = found.pop(i)
            yield {**features, "token_embeddings": tokens.cpu(), "sentence_embedding": pooled.cpu()}
    warn_of_texts(model, settings, count)


def tokens_of_features(model: ConnectionBert, features: Mapping[str, Any]) -> tuple[Tensor, TextTokens]:
    """Return the attention mask, shape (N, C), bool, on the CPU, and the tokens of N texts, from padded features.

    Args:
        model: The model that is to read them.
        features: ``input_ids``, and perhaps ``attention_mask`` and ``token_type_ids``, shape (N, C), whole numbers.

    Raises:
        InputError: They are not that, or a text has no token, more than the encoder has positions for, or an id of
            which it has no vector.
    """
    config = model.plan.config
    limits = {"input_ids": config.vocab_size, "attention_mask": 2}
    limits["token_type_ids"] = getattr(config, "type_vocab_size", None) or 256
    given = {name: features[name] for name in limits if name in features}
    given = {name: values.cpu() if isinstance(values, Tensor) else values for name, values in given.items()}
    ids = given.get("input_ids")
    for name, values in {"input_ids": ids, **given}.items():
        if not isinstance(values, Tensor) or values.is_floating_point() or values.ndim != 2 or not values.numel():
            raise InputError(f"features: expected {name} as a tensor of whole numbers of shape (texts, tokens)")
        if ids is None or values.shape != ids.shape:
            raise InputError(f"features: {name} and input_ids differ in shape, expected the same")
        if values.min() < 0 or values.max() >= limits[name]:
            raise InputError(f"features: {name} must be from 0 to {limits[name] - 1}")
    numbers = {name: values.numpy() for name, values in given.items()}
    mask = numbers.get("attention_mask", np.ones_like(numbers["input_ids"])).astype(bool)
    lengths = mask.sum(1, dtype=np.int64)
    if not lengths.all() or lengths.max() > model.max_tokens:
        raise InputError(f"features: every text must have 1 to {model.max_tokens} tokens, by attention_mask")
    types = numbers.get("token_type_ids")
    texts = TextTokens(
        numbers["input_ids"][mask].astype(np.int32),
        offsets_of(lengths),
        None if types is None else types[mask].astype(np.uint8),
    )
    return torch.from_numpy(mask), texts
