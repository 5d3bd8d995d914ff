"""What bad model folders are made from: whole ones of every layout, and functions that spoil one thing in them.

A spoiler takes a folder and changes it in place; it returns another path where the model is to be loaded from there.
Nothing is stored: every byte is made here.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from conftest import default_vocabulary, make_bert_folder
from safetensors.torch import load_file, save, save_file
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from sbert_ft.model_folder.decision import Calibration, Decision, FittedOn
from sbert_ft.models.classifier import ClassifierModel
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.models.siamese import SiameseBert

Spoiler = Callable[[Path], Path | None]
State = dict[str, Tensor]

BIN, SAFE = "pytorch_model.bin", "model.safetensors"
PAGE = b"<!DOCTYPE html>\n<html><head><title>404</title></head><body>not found</body></html>\n"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 90868376\n"
WORDS = "embeddings.word_embeddings.weight"
NORM = "embeddings.LayerNorm.weight"
QUERY = "encoder.layer.0.attention.self.query.weight"
ST = "sentence_transformers.models."


# Whole folders


def bare(target: Path) -> Path:
    """config.json, pytorch_model.bin, vocab.txt."""
    return make_bert_folder(target)


def safe(target: Path) -> Path:
    """The same with model.safetensors."""
    return make_bert_folder(target, safetensors=True)


def old(target: Path) -> Path:
    """A folder of sentence-transformers up to 5.3."""
    safe(target)
    put_json(target / "modules.json", modules(("", "Transformer"), ("1_Pooling", "Pooling")))
    put_json(
        target / "1_Pooling/config.json",
        {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False},
    )
    put_json(target / "sentence_bert_config.json", {"max_seq_length": 48, "do_lower_case": False})
    put_json(
        target / "config_sentence_transformers.json",
        {"prompts": {"query": "find: "}, "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )
    put_json(target / "tokenizer_config.json", {"do_lower_case": True, "tokenizer_class": "BertTokenizer"})
    return target


def new(target: Path) -> Path:
    """A folder as sentence-transformers 6.2 writes it."""
    old(target)
    base = "sentence_transformers.base.modules.transformer.Transformer"
    pooling = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
    put_json(
        target / "modules.json",
        [
            {"idx": 0, "name": "0", "path": "", "type": base},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": pooling},
        ],
    )
    put_json(
        target / "1_Pooling/config.json",
        {"embedding_dimension": 32, "pooling_mode": "mean", "include_prompt": True},
    )
    put_json(
        target / "sentence_bert_config.json",
        {
            "transformer_task": "feature-extraction",
            "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            "module_output_name": "token_embeddings",
        },
    )
    change_json("tokenizer_config.json", model_max_length=48)(target)
    return target


def own(target: Path) -> Path:
    """A folder of ours, with a threshold and a calibration."""
    model = SiameseBert(_encoder(target))
    model.decision = Decision(
        0.5,
        "f1",
        FittedOn("pairs.csv", "0" * 64, 100, 50),
        calibration=Calibration("isotonic", x=(-0.5, 0.5), y=(0.1, 0.9)),
    )
    model.save_pretrained(target)
    return target


def towers(target: Path) -> Path:
    """A classifier of ours with two towers: its head in a file of its own."""
    model = ClassifierModel(_encoder(target), "towers")
    model.start_head(["no", "yes"])
    model.save_pretrained(target)
    return target


def stock(target: Path) -> Path:
    """A classifier as transformers saves it, of single texts."""
    tokens = default_vocabulary()
    settings = {"vocab_size": len(tokens), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BertConfig(**settings, intermediate_size=64, max_position_embeddings=64, id2label={0: "no", 1: "yes"})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertForSequenceClassification(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.2)
    model.save_pretrained(target)
    (target / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), "utf-8")
    return target


def shards(target: Path) -> Path:
    """Weights in two safetensors files and an index."""
    return _in_two(safe(target), SAFE)


def bin_shards(target: Path) -> Path:
    """Weights in two .bin files and an index."""
    return _in_two(bare(target), BIN)


def _encoder(target: Path) -> ConnectionBert:
    source = make_bert_folder(target.with_name(f"{target.name} source"))
    return ConnectionBert.from_pretrained(source, device="cpu", precision="float32")


def _in_two(folder: Path, name: str) -> Path:
    state, stem = state_of(folder), Path(name).stem
    files = [f"{stem}-0000{i}-of-00002{Path(name).suffix}" for i in (1, 2)]
    owner = {key: files[place % 2] for place, key in enumerate(state)}
    for file in files:
        put_state(folder / file, {key: tensor for key, tensor in state.items() if owner[key] == file})
    (folder / name).unlink()
    put_json(folder / f"{name}.index.json", {"metadata": {}, "weight_map": owner})
    return folder


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    layout.__name__: layout for layout in (bare, safe, old, new, own, towers, stock, shards, bin_shards)
}


# Files


def put_json(path: Path, content: object) -> None:
    """Write JSON; NaN and lone surrogates are written as Python does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), "utf-8")


def get_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def modules(*entries: tuple[str, str]) -> list[dict[str, object]]:
    """Return a modules.json; a type without a dot is one of sentence-transformers."""
    return [
        {"idx": i, "name": str(i), "path": path, "type": kind if "." in kind else ST + kind}
        for i, (path, kind) in enumerate(entries)
    ]


def without(*names: str) -> Spoiler:
    """Remove files."""

    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return spoil


def holding(name: str, content: bytes | str | Callable[[], bytes]) -> Spoiler:
    """Give a file other content."""

    def spoil(folder: Path) -> None:
        data = content() if callable(content) else content
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)

    return spoil


def change_json(name: str, *gone: str, **values: object) -> Spoiler:
    """Set keys of a JSON file, which is made where it is not there, and take others out."""

    def spoil(folder: Path) -> None:
        content = get_json(folder / name) if (folder / name).exists() else {}
        kept = {key: value for key, value in content.items() if key not in gone}
        put_json(folder / name, {**kept, **values})

    return spoil


def config(*gone: str, **values: object) -> Spoiler:
    """Set keys of config.json and take others out."""
    return change_json("config.json", *gone, **values)


def change_inner(name: str, *path: str | int, **values: object) -> Spoiler:
    """Set keys of an object within a JSON file; `path` leads there."""

    def spoil(folder: Path) -> None:
        content = inner = get_json(folder / name)
        for key in path:
            inner = inner[key]
        inner.update(values)
        put_json(folder / name, content)

    return spoil


def edited(name: str, edit: Callable[[bytes], bytes]) -> Spoiler:
    """Change a file's bytes."""

    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(edit((folder / name).read_bytes()))

    return spoil


def linked_to(name: str, target: str) -> Spoiler:
    """Put a link in a file's place."""

    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return spoil


def as_link(name: str) -> Spoiler:
    """Move a file out of the folder and leave a link to it."""

    def spoil(folder: Path) -> None:
        moved = folder.with_name(f"moved {name}")
        (folder / name).rename(moved)
        (folder / name).symlink_to(moved)

    return spoil


def as_pipe(*names: str) -> Spoiler:
    """Put pipes in files' places: whoever opens one waits for ever."""

    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).unlink(missing_ok=True)
            os.mkfifo(folder / name)

    return spoil


def as_folder(name: str) -> Spoiler:
    """Put a folder in a file's place."""

    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return spoil


def all_of(*spoilers: Spoiler) -> Spoiler:
    """Do several things, one after the other."""

    def spoil(folder: Path) -> Path | None:
        place: Path | None = None
        for one in spoilers:
            place = one(folder) or place
        return place

    return spoil


def nothing(folder: Path) -> None:
    """Leave the folder whole."""


def renamed(name: str) -> Spoiler:
    """Give the folder another name."""
    return lambda folder: folder.rename(folder.with_name(name))


def elsewhere(name: str) -> Spoiler:
    """Leave the folder, and ask for another path beside it."""
    return lambda folder: folder.parent / name


# Weights


def state_of(folder: Path) -> State:
    """Return the tensors of a folder's one file of weights."""
    if (folder / SAFE).exists():
        return load_file(folder / SAFE)
    state: State = torch.load(folder / BIN, weights_only=True)
    return state


def put_state(path: Path, state: object) -> None:
    """Write tensors in the format that the file's name says."""
    if path.suffix == ".safetensors":
        assert isinstance(state, dict)
        own_memory = {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in state.items()}
        save_file(own_memory, path, metadata={"format": "pt"})
    else:
        torch.save(state, path)


def weights(edit: Callable[[State], object]) -> Spoiler:
    """Write other tensors to a folder's file of weights."""

    def spoil(folder: Path) -> None:
        name = SAFE if (folder / SAFE).exists() else BIN
        put_state(folder / name, edit(state_of(folder)))

    return spoil


def with_tensor(name: str, edit: Callable[[Tensor], Tensor]) -> Spoiler:
    """Change one tensor."""
    return weights(lambda state: {**state, name: edit(state[name])})


def with_more(**tensors: Tensor) -> Spoiler:
    """Add tensors; "__" in a name stands for a dot."""
    return weights(lambda state: {**state, **{name.replace("__", "."): t for name, t in tensors.items()}})


def without_tensors(part: str) -> Spoiler:
    """Take out the tensors with `part` in their name."""
    return weights(lambda state: {key: tensor for key, tensor in state.items() if part not in key})


def prefixed(prefix: str) -> Spoiler:
    """Put a prefix before every name."""
    return weights(lambda state: {prefix + key: tensor for key, tensor in state.items()})


def of_type(dtype: torch.dtype) -> Spoiler:
    """Give every tensor another type."""
    return weights(lambda state: {key: tensor.to(dtype) for key, tensor in state.items()})


def with_sparse_tail(n_bytes: int) -> Spoiler:
    """Add to model.safetensors a tensor of so many bytes that nothing needs; on disk it takes no room."""

    def spoil(folder: Path) -> None:
        data = (folder / SAFE).read_bytes()
        n_header = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + n_header])
        end = len(data) - 8 - n_header
        header["unused"] = {"dtype": "F32", "shape": [n_bytes // 4], "data_offsets": [end, end + n_bytes]}
        text = json.dumps(header).encode()
        with (folder / SAFE).open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text + data[8 + n_header :])
            file.truncate(8 + len(text) + end + n_bytes)

    return spoil


# Pickles


def calling(name: str, argument: str, form: str = "zip") -> bytes:
    """Return a file of torch whose pickle calls a function ("posix system") with a text when it is loaded."""
    module, function = name.split()
    text = argument.encode()
    pickled = b"\x80\x02" + f"c{module}\n{function}\n".encode() + b"X" + len(text).to_bytes(4, "little") + text
    pickled += b"\x85R."
    return pickled if form == "bare" else with_record(pickled)


def with_record(pickled: bytes) -> bytes:
    """Return a zip as torch writes it, with another pickle in it."""
    good, buffer = io.BytesIO(), io.BytesIO()
    torch.save({WORDS: torch.zeros(2, 2)}, good)
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            target.writestr(name, pickled if name.endswith("data.pkl") else source.read(name))
    return buffer.getvalue()


def hostile(*names: str, call: str = "posix system", form: str = "zip") -> Spoiler:
    """Put files there that would run `touch ran` when they are unpickled."""

    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).write_bytes(calling(call, "touch ran", form))

    return spoil


def deflated_bomb() -> bytes:
    """Return a zip of a megabyte that unfolds to a gigabyte."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        with archive.open("archive/data/0", "w", force_zip64=True) as record:
            for _ in range(64):
                record.write(bytes(2**24))
        archive.writestr("archive/version", b"3\n")
    return buffer.getvalue()


def header_of(header: object, data: bytes = b"") -> bytes:
    """Return a safetensors file with any header at all."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def safetensors_bytes(**tensors: Tensor) -> bytes:
    return save({name.replace("__", "."): tensor for name, tensor in tensors.items()})


# Vocabularies and tokenizers


def vocabulary(edit: Callable[[list[str]], list[str]]) -> Spoiler:
    """Change the lines of vocab.txt."""
    return edited("vocab.txt", lambda data: "".join(f"{t}\n" for t in edit(data.decode().split("\n")[:-1])).encode())


def tokenizer_json(edit: Callable[[dict[str, Any]], None] = lambda _: None, keep_vocab: bool = False) -> Spoiler:
    """Write the folder's tokenizer as tokenizer.json, changed, in place of vocab.txt."""

    def spoil(folder: Path) -> None:
        from sbert_ft.tokenization.tokenizer import TextTokenizer

        content = json.loads(TextTokenizer.from_pretrained(folder).backend.to_str())
        edit(content)
        put_json(folder / "tokenizer.json", content)
        if not keep_vocab:
            (folder / "vocab.txt").unlink(missing_ok=True)

    return spoil


def tokenizer_key(key: str, value: object) -> Spoiler:
    """Set one key of tokenizer.json, given with dots as ``model.vocab``."""

    def edit(content: dict[str, Any]) -> None:
        *path, last = key.split(".")
        for name in path:
            content = content[name]
        content[last] = value

    return tokenizer_json(edit)
