"""The metrics of masked language models: sums of sequences, intervals, differences, and memory that runs out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sbert_ft.config.settings import EvaluationSettings
from sbert_ft.data.corpus import TextCorpus
from sbert_ft.errors import ResourceError
from sbert_ft.evaluation.language_evaluator import EvaluationTexts, language_metrics, sums_of_sequences
from sbert_ft.models.masked_language_model import MaskedLanguageModel
from sbert_ft.models.tokenized_corpus import tokenize_corpus
from sbert_ft.tokenization.masking import Masker

DOCUMENTS = [text for n in range(1, 9) for text in (*["the dog runs in the park"] * n, "a man plays", "")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_bert_folder: Callable[..., Path]) -> MaskedLanguageModel:
    folder = tiny_bert_folder(tmp_path_factory.mktemp("tiny") / "model")
    return MaskedLanguageModel.from_pretrained(folder, "cpu", "float32", 40, next_sentence=True)


def texts_for(model: MaskedLanguageModel, share: float = 0.3) -> EvaluationTexts:
    corpus = TextCorpus.from_texts(DOCUMENTS)
    rows = tokenize_corpus(corpus, model.tokenizer, model.max_seq_length, in_pairs=True)
    return EvaluationTexts("dev", corpus.source, corpus.sha256, rows, Masker(model.tokenizer, share), 1)


@torch.inference_mode()
def test_sums_are_those_of_each_sequence_alone(model: MaskedLanguageModel) -> None:
    texts = texts_for(model)
    sums = sums_of_sequences(model, texts)
    assert sums is not None and sums.shape == (len(texts), 5)
    (masked,) = texts.drawn()
    for row in range(len(masked)):
        one = masked.select(np.array([row]))
        batch = model.bert.pack(one.tokens, "padded")
        hidden = model.bert.infer(batch)[0]
        logits = model.head.word_logits(hidden[torch.from_numpy(one.places)])
        labels = torch.from_numpy(one.labels)
        loss = float(F.cross_entropy(logits, labels, reduction="sum")) if len(labels) else 0.0
        assert sums[row, 0] == len(labels)
        assert sums[row, 1] == pytest.approx(loss, rel=1e-4)
        assert sums[row, 2] == int((logits.argmax(-1) == labels).sum())
        assert one.second is not None
        assert sums[row, 3:].tolist() == [1, int(model.head.order_logits(hidden[:1]).argmax()) == one.second[0]]


def test_every_evaluation_has_the_same_masked_tokens(model: MaskedLanguageModel) -> None:
    texts = texts_for(model)
    first, second = sums_of_sequences(model, texts), sums_of_sequences(model, texts)
    assert first is not None and second is not None
    np.testing.assert_array_equal(first, second)


def test_metrics_are_ratios_of_sums_and_their_intervals_hold_them() -> None:
    sums = np.array([[4, 8.0, 1, 1, 1], [2, 1.0, 2, 1, 0], [0, 0.0, 0, 1, 1]] * 50)
    found = language_metrics(sums).with_intervals(EvaluationSettings(bootstrap_samples=200))
    expected = {"loss": 1.5, "perplexity": np.exp(1.5), "masked_accuracy": 0.5, "next_sentence_accuracy": 2 / 3}
    assert {name: score.value for name, score in found.items()} == pytest.approx(expected)
    for score in found.values():
        assert score.low is not None and score.high is not None and score.value is not None
        assert score.low < score.value < score.high


def test_without_pairs_there_is_no_accuracy_of_next_sentences_and_many_rows_are_grouped() -> None:
    one = np.array([[4, 8.0, 1, 0, 0], [2, 1.0, 2, 0, 0]])
    few, many = language_metrics(one).scores, language_metrics(np.tile(one, (15_000, 1))).scores
    assert set(few) == set(many) == {"loss", "perplexity", "masked_accuracy"}
    assert {name: score.value for name, score in many.items()} == pytest.approx({k: v.value for k, v in few.items()})


def test_a_forward_that_does_not_fit_is_done_in_parts(
    model: MaskedLanguageModel, caplog: pytest.LogCaptureFixture
) -> None:
    texts, expected = texts_for(model), sums_of_sequences(model, texts_for(model))
    assert expected is not None

    def refuse(most: int) -> Any:
        def hook(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            if kwargs["input_ids"].numel() > most:
                raise torch.OutOfMemoryError("CUDA out of memory")

        return model.bert.encoder.register_forward_pre_hook(hook, with_kwargs=True)

    handle = refuse(130)
    try:
        found = sums_of_sequences(model, texts)
    finally:
        handle.remove()
    assert found is not None and "in two parts" in caplog.text
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    handle = refuse(1)
    try:
        with pytest.raises(ResourceError, match=r"one sequence of .* does not fit into the memory"):
            sums_of_sequences(model, texts)
    finally:
        handle.remove()
