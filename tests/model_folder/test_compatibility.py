"""Folders that load in other libraries: ours in sentence-transformers and transformers, theirs here; complete saves."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModel, AutoTokenizer, RobertaConfig, RobertaModel

from sbert_ft.encoder.devices import Precision
from sbert_ft.errors import OutputError
from sbert_ft.models.siamese import SiameseBert

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 5e-6
COMPOSED = [
    "A man is playing a guitar.",
    "한 남자가 기타를 치고 있다.",
    "안전모를 쓴 한 남자가 춤을 추고 있다. ABC abc Éé",
    "👩‍👩‍👧‍👦 emoji 🏳️‍🌈 😀",
    "",
    "[SEP] a [MASK]",
    "漢字 שלום \ue000",
    "words and more words, 말과 말 " * 80,
    *(f"sentence number {i} of many, 문장 {i}" * (1 + i % 5) for i in range(26)),
]
TEXTS = [*COMPOSED, unicodedata.normalize("NFD", "한 남자가 café에서 기타를 친다.")]
NAMES = {
    "1_Pooling/config.json",
    "README.md",
    "config.json",
    "config_sentence_transformers.json",
    "model.safetensors",
    "modules.json",
    "sbert_ft.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
}


@pytest.fixture(scope="module")
def korean(tmp_path_factory: pytest.TempPathFactory, ko_vocab: Path, tiny_bert_folder: Callable[..., Path]) -> Path:
    """Return a small cased Korean model with random weights, in a folder as it is downloaded."""
    tokens = (ko_vocab / "vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    folder = tiny_bert_folder(
        tmp_path_factory.mktemp("korean") / "model", vocab=tokens, hidden_size=64, intermediate=128, max_positions=300
    )
    shutil.copy(ko_vocab / "tokenizer_config.json", folder)
    return folder


@pytest.fixture(scope="module", params=["MiniLM", "Korean"])
def source(request: pytest.FixtureRequest) -> Path:
    """Return the folder of the real MiniLM, then that of the small Korean model."""
    path: Path = request.getfixturevalue("minilm_path" if request.param == "MiniLM" else "korean")
    return path


@pytest.fixture(scope="module")
def ours(source: Path) -> SiameseBert:
    return load(source)


@pytest.fixture(scope="module")
def saved(ours: SiameseBert, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that sbert_ft has saved."""
    target = tmp_path_factory.mktemp("saved") / "model"
    ours.save_pretrained(target)
    return target


def load(folder: Path, precision: Precision = "float32") -> SiameseBert:
    return SiameseBert.from_pretrained(folder, device="cpu", precision=precision)


def assert_same_vectors(model: SiameseBert, reference: SentenceTransformer, texts: list[str], what: str) -> None:
    """Check that the vectors are the same in all batch sizes."""
    vectors = {size: model.encode(texts, batch_size=size, on_truncate="ignore") for size in (1, 32)}
    expected = {size: reference.encode(texts, batch_size=size) for size in (1, 32)}
    largest = max(float(np.abs(vectors[a] - expected[b]).max()) for a in vectors for b in expected)
    print(f"{what}: largest difference {largest:.1e}")
    assert largest < TOLERANCE


def files_of(folder: Path) -> dict[str, str]:
    """Return the digest of every file by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# ours to others


def test_sentence_transformers_reads_our_folder(ours: SiameseBert, saved: Path) -> None:
    reference = SentenceTransformer(str(saved), device="cpu", local_files_only=True)
    assert_same_vectors(ours, reference, TEXTS, "ours in sentence-transformers")
    assert reference.max_seq_length == ours.max_seq_length
    assert reference.get_embedding_dimension() == ours.get_embedding_dimension()
    assert reference.similarity_fn_name == "cosine"


def test_we_read_our_own_folder_exactly(ours: SiameseBert, saved: Path) -> None:
    again = load(saved)
    expected = ours.encode(TEXTS, on_truncate="ignore")
    np.testing.assert_array_equal(again.encode(TEXTS, on_truncate="ignore"), expected)
    assert (again.pooling, again.normalize, again.max_seq_length) == (ours.pooling, ours.normalize, ours.max_seq_length)


def test_saved_twice_is_saved_the_same(saved: Path, tmp_path: Path) -> None:
    load(saved).save_pretrained(tmp_path / "again")
    first, second = files_of(saved), files_of(tmp_path / "again")
    assert {name for name in first if first[name] != second[name]} == set()
    assert first.keys() == second.keys()


def test_transformers_alone_reads_our_folder(ours: SiameseBert, saved: Path) -> None:
    tokenizer, encoder = AutoTokenizer.from_pretrained(saved), AutoModel.from_pretrained(saved).eval()
    assert tokenizer.model_max_length == ours.max_seq_length
    batch = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        hidden = encoder(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None].float()
    pooled = (hidden * mask).sum(1) / mask.sum(1)
    if ours.normalize:
        pooled = torch.nn.functional.normalize(pooled, dim=-1)
    np.testing.assert_allclose(ours.encode(TEXTS, on_truncate="ignore"), pooled, atol=TOLERANCE, rtol=0)


def test_the_pooler_of_the_source_is_kept(source: Path, saved: Path) -> None:
    _, report = AutoModel.from_pretrained(saved, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert "pooler.dense.weight" in load_file(saved / "model.safetensors")


def test_a_saved_folder_holds_what_everybody_reads_and_no_name_of_ours(ours: SiameseBert, saved: Path) -> None:
    assert set(files_of(saved)) == NAMES | ({"2_Normalize/config.json"} if ours.normalize else set())
    types = [module["type"] for module in json.loads((saved / "modules.json").read_text())]
    known = ["Transformer", "Pooling", "Normalize"][: len(types)]
    assert types == [f"sentence_transformers.models.{name}" for name in known]
    for name in NAMES - {"README.md", "sbert_ft.json"}:
        assert b"sbert_ft" not in (saved / name).read_bytes(), name
    config = json.loads((saved / "config.json").read_text())
    assert (config["architectures"], config["model_type"]) == (["BertModel"], "bert")
    pooling = json.loads((saved / "1_Pooling" / "config.json").read_text())
    assert pooling["word_embedding_dimension"] == ours.get_embedding_dimension()
    assert [key for key, value in pooling.items() if value is True] == ["pooling_mode_mean_tokens"]
    length = json.loads((saved / "sentence_bert_config.json").read_text())
    assert length == {"max_seq_length": ours.max_seq_length, "do_lower_case": False}


def test_casing_is_written_down(ours: SiameseBert, saved: Path) -> None:
    settings = json.loads((saved / "tokenizer_config.json").read_text())
    casing = ours.tokenizer.casing
    assert casing is not None
    for flag in ("do_lower_case", "strip_accents", "tokenize_chinese_chars"):
        assert settings[flag] is getattr(casing, flag)
    assert settings["model_max_length"] == ours.max_seq_length
    assert settings["tokenizer_class"] in ("BertTokenizer", "PreTrainedTokenizerFast")


def test_the_saved_vocabulary_is_that_of_the_source(source: Path, saved: Path) -> None:
    assert (saved / "vocab.txt").read_bytes() == (source / "vocab.txt").read_bytes()


def test_the_length_set_by_the_user_is_saved(small: SiameseBert, tmp_path: Path) -> None:
    model = SiameseBert(small.bert, max_seq_length=21)
    model.save_pretrained(tmp_path / "short")
    assert load(tmp_path / "short").max_seq_length == 21
    assert SentenceTransformer(str(tmp_path / "short"), device="cpu").max_seq_length == 21


def test_prompts_similarity_and_pooling_are_saved(small: SiameseBert, tmp_path: Path) -> None:
    model = SiameseBert(small.bert, pooling="cls")
    model.prompts, model.default_prompt_name = {"query": "질문: ", "document": ""}, "query"
    model.similarity_fn_name = "dot"
    model.save_pretrained(tmp_path / "model")
    again, reference = load(tmp_path / "model"), SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert (again.prompts, again.default_prompt_name) == (model.prompts, "query")
    assert (again.pooling, again.similarity_fn_name) == ("cls", "dot")
    assert reference.similarity_fn_name == "dot"
    np.testing.assert_array_equal(again.encode(TEXTS[:4]), model.encode(TEXTS[:4]))
    np.testing.assert_allclose(reference.encode(TEXTS[:4]), model.encode(TEXTS[:4]), atol=TOLERANCE, rtol=0)


# theirs to ours


@pytest.fixture(scope="module")
def theirs(source: Path) -> SentenceTransformer:
    """Return the source loaded in sentence-transformers."""
    if (source / "modules.json").exists():
        return SentenceTransformer(str(source), device="cpu")
    encoder = Transformer(str(source))
    return SentenceTransformer(modules=[encoder, Pooling(encoder.get_embedding_dimension())], device="cpu")


def test_we_read_what_sentence_transformers_saves(
    theirs: SentenceTransformer, ours: SiameseBert, tmp_path: Path
) -> None:
    theirs.save(str(tmp_path / "theirs"))
    assert not (tmp_path / "theirs" / "vocab.txt").exists()
    model = load(tmp_path / "theirs")
    assert_same_vectors(model, theirs, COMPOSED, "sentence-transformers 6.2 here")
    assert model.max_seq_length == theirs.max_seq_length
    # composed text and decomposed text are one to us
    np.testing.assert_array_equal(model.encode(TEXTS[-1]), ours.encode(TEXTS[-1]))


def test_we_read_the_older_layout(source: Path, theirs: SentenceTransformer, tmp_path: Path) -> None:
    folder = tmp_path / "older"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "pytorch_model.bin", "vocab.txt", "tokenizer_config.json"):
        if (source / name).exists():
            (folder / name).symlink_to(source / name)
    kinds = ["Transformer", "Pooling"] + ["Normalize"] * (len(theirs) == 3)
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {
                    "idx": i,
                    "name": str(i),
                    "path": f"{i}_{kind}" if i else "",
                    "type": f"sentence_transformers.models.{kind}",
                }
                for i, kind in enumerate(kinds)
            ]
        )
    )
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps(
            {
                "word_embedding_dimension": theirs.get_embedding_dimension(),
                "pooling_mode_cls_token": False,
                "pooling_mode_mean_tokens": True,
                "pooling_mode_max_tokens": False,
                "pooling_mode_mean_sqrt_len_tokens": False,
            }
        )
    )
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 50, "do_lower_case": false}')
    reference = SentenceTransformer(str(folder), device="cpu")
    model = load(folder)
    assert model.max_seq_length == reference.max_seq_length == 50
    assert_same_vectors(model, reference, COMPOSED, "the older layout here")


# the same weights in both


def test_as_sentence_transformer_shares_the_weights(korean: Path) -> None:
    ours = load(korean)
    shared = ours.as_sentence_transformer()
    assert shared[0].model is ours.bert.encoder
    assert_same_vectors(ours, shared, TEXTS, "shared weights")
    before = ours.encode(TEXTS[0])
    with torch.no_grad():
        shared[0].model.embeddings.word_embeddings.weight.mul_(1.5)
    changed = ours.encode(TEXTS[0])
    assert np.abs(changed - before).max() > 1e-3
    np.testing.assert_allclose(shared.encode(TEXTS[0]), changed, atol=TOLERANCE)
    with torch.no_grad():
        ours.bert.encoder.embeddings.word_embeddings.weight.mul_(0.5)
    np.testing.assert_allclose(shared.encode(TEXTS[0]), ours.encode(TEXTS[0]), atol=TOLERANCE)
    assert np.abs(shared.encode(TEXTS[0]) - changed).max() > 1e-3


def test_as_sentence_transformer_is_the_real_minilm(minilm_path: Path) -> None:
    ours = load(minilm_path)
    shared = ours.as_sentence_transformer()
    assert shared[0].model is ours.bert.encoder
    assert shared.max_seq_length == ours.max_seq_length and len(shared) == 3
    assert_same_vectors(ours, shared, TEXTS[:7], "MiniLM shared")


def test_gradients_through_a_shared_sentence_transformer_reach_our_encoder(korean: Path) -> None:
    ours = load(korean)
    shared = ours.as_sentence_transformer()
    features = shared.preprocess(TEXTS[:3])
    shared(features)["sentence_embedding"].sum().backward()
    grads = [p.grad for n, p in ours.bert.encoder.named_parameters() if "pooler" not in n]
    assert all(grad is not None for grad in grads)


def test_a_shared_sentence_transformer_saves_a_folder_without_a_name_of_ours(korean: Path, tmp_path: Path) -> None:
    ours = load(korean)
    ours.as_sentence_transformer().save(str(tmp_path / "theirs"), create_model_card=False)
    for path in (tmp_path / "theirs").rglob("*.json"):
        assert b"sbert_ft" not in path.read_bytes(), path.name
    reference = SentenceTransformer(str(tmp_path / "theirs"), device="cpu")
    assert_same_vectors(ours, reference, TEXTS, "shared, saved by sentence-transformers")
    np.testing.assert_array_equal(load(tmp_path / "theirs").encode(TEXTS[:5]), ours.encode(TEXTS[:5]))


# precision


def test_a_save_after_training_in_half_precision_writes_the_full_weights(korean: Path, tmp_path: Path) -> None:
    model = load(korean, "bfloat16")
    before = model.encode(TEXTS[:5])
    with torch.no_grad():
        for parameter in model.bert.encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=1e-2)
    changed = model.encode(TEXTS[:5])
    assert np.abs(changed - before).max() > 1e-3
    model.save_pretrained(tmp_path / "model")
    written = load_file(tmp_path / "model" / "model.safetensors")
    for name, parameter in model.bert.encoder.named_parameters():
        assert written[name].dtype == torch.float32
        assert torch.equal(written[name], parameter.detach())
    weight = written["encoder.layer.0.output.dense.weight"]
    assert not torch.equal(weight, weight.bfloat16().float())
    np.testing.assert_array_equal(load(tmp_path / "model", "bfloat16").encode(TEXTS[:5]), changed)


# whole or not at all


@pytest.fixture
def small(tmp_path: Path, tiny_bert_folder: Callable[..., Path]) -> SiameseBert:
    return load(tiny_bert_folder(tmp_path / "small"))


def test_a_save_over_a_folder_is_whole_and_keeps_foreign_files(small: SiameseBert, tmp_path: Path) -> None:
    target = tmp_path / "target"
    small.normalize = True
    small.save_pretrained(target)
    (target / "notes.txt").write_text("mine")
    (target / "1_Pooling" / "mine.txt").write_text("mine")
    (target / ".git").mkdir()
    (target / ".git" / "HEAD").write_text("mine")
    with torch.no_grad():
        small.bert.encoder.embeddings.word_embeddings.weight.mul_(2)
    small.normalize = False
    small.save_pretrained(target)
    foreign = {"notes.txt", "1_Pooling/mine.txt", ".git/HEAD"}
    assert set(files_of(target)) == NAMES | foreign
    assert all((target / name).read_text() == "mine" for name in foreign)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small", "target"]
    np.testing.assert_array_equal(load(target).encode(TEXTS[:3]), small.encode(TEXTS[:3]))


def test_a_save_over_other_weights_leaves_the_new_ones_in_force(
    small: SiameseBert, tmp_path: Path, tiny_bert_folder: Callable[..., Path]
) -> None:
    target = tiny_bert_folder(tmp_path / "target", seed=5)
    assert (target / "pytorch_model.bin").exists()
    small.save_pretrained(target)
    expected = small.encode(TEXTS[:3])
    np.testing.assert_array_equal(load(target).encode(TEXTS[:3]), expected)
    reference = SentenceTransformer(str(target), device="cpu")
    np.testing.assert_allclose(reference.encode(TEXTS[:3]), expected, atol=TOLERANCE)


def test_a_new_folder_can_be_read_by_others(small: SiameseBert, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    small.save_pretrained(tmp_path / "deep" / "er" / "model")
    usual = (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "deep" / "er" / "model").stat().st_mode == usual
    assert [path.name for path in (tmp_path / "deep" / "er").iterdir()] == ["model"]


def test_a_save_goes_through_a_link_to_a_folder(small: SiameseBert, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    small.save_pretrained(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert set(files_of(tmp_path / "elsewhere")) == NAMES


def test_a_relative_target_is_saved_to(small: SiameseBert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    small.save_pretrained("model")
    small.save_pretrained(".")
    assert {name for name in files_of(Path(".")) if not name.startswith("model/")} == NAMES
    assert load(Path("model")).max_seq_length == 64


def test_a_target_that_cannot_be_a_folder_is_refused(small: SiameseBert, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for target in (
        tmp_path / "file",
        tmp_path / "file" / "model",
        tmp_path / ("x" * 300),
        Path("nul\0"),
        Path("/proc/x"),
    ):
        with pytest.raises(OutputError):
            small.save_pretrained(target)
    assert (tmp_path / "file").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "small"]


FULL_DISK = """
import resource, sys
from pathlib import Path
from sbert_ft.errors import OutputError
from sbert_ft.models.siamese import SiameseBert
source, target, fresh = map(Path, sys.argv[1:])
model = SiameseBert.from_pretrained(source, device="cpu", precision="float32")
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
def is_refused(place, limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        model.save_pretrained(place)
    except OutputError as error:
        return str(place) in str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    return False
for limit in map(int, sys.stdin.read().split()):
    print(limit, is_refused(target, limit), is_refused(fresh, limit), fresh.exists(), flush=True)
"""


def test_a_disk_that_fills_up_in_the_middle_leaves_the_old_folder_whole(
    tmp_path: Path, ko_vocab: Path, tiny_bert_folder: Callable[..., Path]
) -> None:
    pytest.importorskip("resource")
    # more vocabulary than weights, so that each kind of file is the one that does not fit
    tokens = (ko_vocab / "vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    sizes: dict[str, object] = {"hidden_size": 4, "heads": 1, "layers": 1, "intermediate": 4}
    source = tiny_bert_folder(tmp_path / "source", vocab=tokens, seed=1, **sizes)
    old = tiny_bert_folder(tmp_path / "old", vocab=tokens, seed=2, **sizes)
    target = tmp_path / "out" / "target"
    load(old).save_pretrained(target)
    before, expected = files_of(target), load(target).encode(TEXTS[:3])
    n_weights, n_tokenizer = ((target / name).stat().st_size for name in ("model.safetensors", "tokenizer.json"))
    assert n_weights < n_tokenizer
    limits = [0, 100, 10_000, n_weights - 1, n_weights, n_tokenizer - 1]
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(source), str(target), str(tmp_path / "out" / "fresh")],
        input=" ".join(map(str, limits)),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{limit} True True False" for limit in limits]
    assert files_of(target) == before
    np.testing.assert_array_equal(load(target).encode(TEXTS[:3]), expected)
    assert os.listdir(tmp_path / "out") == ["target"]


# another kind


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small RoBERTa as in old downloads: byte-level vocab.json and merges.txt."""
    folder = tmp_path_factory.mktemp("roberta") / "model"
    folder.mkdir()
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["A man is playing a guitar.", "한 남자가 기타를 치고 있다."] * 20, trainer)
    backend.model.save(str(folder))
    config = RobertaConfig(
        vocab_size=backend.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=66,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    encoder = RobertaModel(config)
    config.save_pretrained(folder)
    torch.save(encoder.state_dict(), folder / "pytorch_model.bin")
    return folder


def test_a_roberta_goes_to_sentence_transformers_and_back(roberta: Path, tmp_path: Path) -> None:
    ours = load(roberta)
    assert ours.max_seq_length == 64
    ours.save_pretrained(tmp_path / "ours")
    reference = SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    assert_same_vectors(ours, reference, TEXTS, "RoBERTa, ours in sentence-transformers")
    again = load(tmp_path / "ours")
    np.testing.assert_array_equal(again.encode(TEXTS, on_truncate="ignore"), ours.encode(TEXTS, on_truncate="ignore"))
    reference.save(str(tmp_path / "theirs"))
    assert_same_vectors(load(tmp_path / "theirs"), reference, TEXTS, "RoBERTa, theirs here")
    _, report = AutoModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["unexpected_keys"]
    assert_same_vectors(ours, ours.as_sentence_transformer(), TEXTS, "RoBERTa, shared")
