"""Libraries that take a SentenceTransformer, run on this model: each gives what it gives with sentence-transformers.

Run by `make test-ecosystem` in an environment of its own; `make test` does not collect this folder. What each library
needs, and what does not work, is in docs/ecosystem.md.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from sbert_ft import BertClassifier, SiameseBert

TOLERANCE = 5e-6
TOPICS = {
    "animals": [f"The {a} {b} the {c}." for a in ("dog", "cat", "bird", "horse") for b in ("chases", "eats", "sees")
                for c in ("ball", "fish", "tree", "man")],
    "banks": [f"The bank {a} {b} {c}." for a in ("raises", "lowers", "keeps") for b in ("loan", "deposit", "mortgage",
              "credit") for c in ("rates", "fees", "costs", "margins")],
}  # fmt: skip
TEXTS = [text for texts in TOPICS.values() for text in texts]
LABELS = [topic for topic, texts in TOPICS.items() for _ in texts]
DOCUMENT = (
    "Supervised learning is the machine learning task of learning a function that maps an input to an output based on "
    "example input-output pairs. It infers a function from labeled training data."
)


@pytest.fixture(scope="module")
def model(minilm_path: Path) -> SiameseBert:
    return SiameseBert.from_pretrained(minilm_path, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def reference(minilm_path: Path) -> SentenceTransformer:
    return SentenceTransformer(str(minilm_path), device="cpu")


def library(name: str) -> Any:
    """Return an installed library, or skip the test."""
    return pytest.importorskip(name, reason=f"{name} is not installed")


# KeyBERT


def test_keybert_finds_the_same_keywords(model: SiameseBert, reference: SentenceTransformer) -> None:
    keybert = library("keybert")

    class Embedder(library("keybert.backend").BaseEmbedder):  # type: ignore[misc]
        def embed(self, documents: Any, verbose: bool = False) -> Any:
            return model.encode(documents, show_progress_bar=verbose)

    expected = keybert.KeyBERT(model=reference).extract_keywords(DOCUMENT, keyphrase_ngram_range=(1, 2))
    assert expected[0][0] == "supervised learning"
    for given in (model.as_sentence_transformer(), Embedder()):
        found = keybert.KeyBERT(model=given).extract_keywords(DOCUMENT, keyphrase_ngram_range=(1, 2))
        assert [word for word, _ in found] == [word for word, _ in expected]
        assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=2e-4)


# BERTopic


def test_bertopic_finds_the_same_topics(model: SiameseBert, reference: SentenceTransformer) -> None:
    bertopic, umap = library("bertopic"), library("umap")

    class Embedder(library("bertopic.backend").BaseEmbedder):  # type: ignore[misc]
        def embed(self, documents: Any, verbose: bool = False) -> Any:
            return model.encode(documents, show_progress_bar=verbose)

    found = []
    for given in (reference, model.as_sentence_transformer(), Embedder()):
        reducer = umap.UMAP(n_neighbors=10, n_components=2, random_state=0, n_jobs=1)
        topics = bertopic.BERTopic(embedding_model=given, umap_model=reducer, min_topic_size=20)
        numbers, _ = topics.fit_transform(TEXTS)
        assert len(set(numbers[:48]) & set(numbers[48:]) - {-1}) == 0
        best = topics.find_topics("loans and credit", top_n=1)[0][0]
        assert best in numbers[48:]
        found.append(numbers)
    # neighbours within rounding may fall to another topic
    assert all(np.mean(np.equal(found[0], other)) > 0.9 for other in found[1:])


@pytest.mark.parametrize("name", ["keybert", "bertopic"])
def test_the_model_itself_is_not_used_by_keybert_and_bertopic(model: SiameseBert, name: str) -> None:
    """They load a model of their own from the Hub instead, without a word: offline that is an error."""
    taken = library(name)
    with pytest.raises(Exception, match=r"MiniLM-L|huggingface"):
        taken.KeyBERT(model=model) if name == "keybert" else taken.BERTopic(embedding_model=model).fit(TEXTS)


# LangChain


def test_langchains_own_class_opens_a_saved_folder(model: SiameseBert, tmp_path: Path) -> None:
    huggingface = library("langchain_huggingface")
    model.save_pretrained(tmp_path / "model")
    embeddings = huggingface.HuggingFaceEmbeddings(model_name=str(tmp_path / "model"))
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS[:5]), model.encode(TEXTS[:5]), atol=TOLERANCE)
    np.testing.assert_allclose(embeddings.embed_query(TEXTS[0]), model.encode(TEXTS[0]), atol=TOLERANCE)


def test_langchain_takes_an_adapter(model: SiameseBert) -> None:
    library("langchain_core")
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import InMemoryVectorStore

    class Adapter(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return model.encode_document(texts).tolist()  # type: ignore[no-any-return]

        def embed_query(self, text: str) -> list[float]:
            return model.encode_query(text).tolist()  # type: ignore[no-any-return]

    store = InMemoryVectorStore.from_texts(TEXTS, Adapter())
    query = "a mortgage becomes dearer at the bank"
    best = TEXTS[int((model.encode(TEXTS) @ model.encode(query)).argmax())]
    assert [found.page_content for found in store.similarity_search(query, k=1)] == [best]
    assert [found.page_content for found in asyncio.run(store.asimilarity_search(query, k=1))] == [best]


# MTEB


def test_mteb_scores_a_task_as_with_sentence_transformers(model: SiameseBert, reference: SentenceTransformer) -> None:
    mteb, datasets = library("mteb"), library("datasets")
    from mteb.abstasks import AbsTaskSTS
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models import ModelMeta
    from mteb.models.abs_encoder import AbsEncoder

    class OwnPairs(AbsTaskSTS):  # type: ignore[misc]
        metadata = TaskMetadata(
            name="OwnPairs", description="Pairs made here.", type="STS", dataset={"path": "own/pairs", "revision": "1"},
            eval_langs=["eng-Latn"], main_score="cosine_spearman",
        )  # fmt: skip
        min_score, max_score = 0, 1

        def load_data(self, **_: Any) -> None:
            sides = TEXTS[::3], [TEXTS[(7 * i + 5) % len(TEXTS)] for i in range(0, len(TEXTS), 3)]
            words = [(set(left.split()), set(right.split())) for left, right in zip(*sides, strict=True)]
            score = [len(left & right) / len(left | right) for left, right in words]
            rows = {"sentence1": sides[0], "sentence2": sides[1], "score": score}
            self.dataset, self.data_loaded = datasets.DatasetDict(test=datasets.Dataset.from_dict(rows)), True

    class Adapter(AbsEncoder):  # type: ignore[misc]
        mteb_model_meta = ModelMeta.create_empty()

        def __init__(self) -> None:
            self.model = model

        def encode(self, inputs: Any, **_: Any) -> Any:
            return model.encode([text for batch in inputs for text in batch["text"]])

    def score(given: Any) -> float:
        results = mteb.evaluate(given, OwnPairs(), cache=None, show_progress_bar=False)
        return float(results.task_results[0].get_score())

    expected = score(reference)
    assert 0.1 < abs(expected) < 1
    assert score(model.as_sentence_transformer()) == pytest.approx(expected, abs=1e-4)
    assert score(Adapter()) == pytest.approx(expected, abs=1e-4)


# SetFit


def test_setfit_trains_the_encoder_and_a_head(minilm_path: Path, tmp_path: Path) -> None:
    setfit, datasets = library("setfit"), library("datasets")
    from sklearn.linear_model import LogisticRegression

    model = SiameseBert.from_pretrained(minilm_path, device="cpu", precision="float32")
    before = model.encode(TEXTS[:4])
    few = [*range(0, 48, 6), *range(48, 96, 6)]
    rows = datasets.Dataset.from_dict(
        {"text": [TEXTS[i] for i in few], "label": [int(LABELS[i] == "banks") for i in few]}
    )
    classifier = setfit.SetFitModel(model_body=model.as_sentence_transformer(), model_head=LogisticRegression())
    arguments = setfit.TrainingArguments(max_steps=3, batch_size=8, report_to="none", output_dir=str(tmp_path))
    setfit.Trainer(model=classifier, args=arguments, train_dataset=rows).train()
    assert [int(label) for label in classifier.predict(TEXTS)] == [int(label == "banks") for label in LABELS]
    assert np.abs(model.encode(TEXTS[:4]) - before).max() > 1e-4  # the weights are shared


# scikit-learn


def test_scikit_learn_takes_the_vectors_in_a_pipeline(model: SiameseBert) -> None:
    from sklearn.base import clone
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    pipeline = make_pipeline(FunctionTransformer(model.encode), LogisticRegression())
    assert cross_val_score(pipeline, TEXTS[::4], LABELS[::4], cv=2).tolist() == [1.0, 1.0]
    with pytest.raises(TypeError, match="get_params"):
        clone(BertClassifier(model.bert))
    copied = clone(pipeline).fit(TEXTS[::8], LABELS[::8])
    assert copied.score(TEXTS, LABELS) == 1.0
