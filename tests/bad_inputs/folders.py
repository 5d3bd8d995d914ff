"""Model folders with one thing wrong, or odd, and what is expected of each, in the order of docs/reliability.md.

Every case begins as a whole folder of some layout (see `folder_parts.LAYOUTS`) and is spoiled in one place. "refused"
is a typed error that has each of the words; "warned" computes what the whole folder does and says so in one line; and
"works" does it in silence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from bad_inputs.folder_parts import (
    BIN,
    NORM,
    PAGE,
    POINTER,
    QUERY,
    SAFE,
    ST,
    WORDS,
    Spoiler,
    all_of,
    as_folder,
    as_link,
    as_pipe,
    calling,
    change_inner,
    change_json,
    config,
    deflated_bomb,
    edited,
    elsewhere,
    get_json,
    header_of,
    holding,
    hostile,
    linked_to,
    modules,
    nothing,
    of_type,
    prefixed,
    put_json,
    renamed,
    safetensors_bytes,
    tokenizer_json,
    tokenizer_key,
    vocabulary,
    weights,
    with_more,
    with_record,
    with_sparse_tail,
    with_tensor,
    without,
    without_tensors,
)

Expected = Literal["refused", "warned", "works"]


@dataclass(frozen=True)
class Case:
    """A folder, and what is expected of it.

    Attributes:
        name: A sentence of its own.
        layout: The whole folder that it begins as.
        spoil: Makes it what it is.
        expected: What becomes of it.
        words: Parts of the message, in any case of letters.
        same: Whether its vectors are those of the whole folder; otherwise they are only held to be finite.
        tolerance: By how much they may differ.
        doctor: Whether the doctor fails what loads, or passes what does not; None where both agree.
        unprivileged: Whether it is read as a user without privileges.
        options: Of from_pretrained.
        labels: Classes of a model that takes single texts.
        is_encoder: Whether it is no classifier, but a sentence encoder to commands that take either.
    """

    name: str
    layout: str
    spoil: Spoiler
    expected: Expected
    words: tuple[str, ...] = ()
    same: bool = True
    tolerance: float = 0.0
    doctor: Literal["passes", "fails"] | None = None
    unprivileged: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, str] = ("no", "yes")
    is_encoder: bool = False

    @property
    def is_bad(self) -> bool:
        """Whether something has to be said of it."""
        return self.expected != "works"

    @property
    def kind(self) -> str:
        """Whether the folder is loaded as a classifier."""
        return "classifier" if self.layout in ("stock", "towers") else "siamese"


def refused(name: str, layout: str, spoil: Spoiler, *words: str, **more: Any) -> Case:
    return Case(name, layout, spoil, "refused", words, **more)


def warned(name: str, layout: str, spoil: Spoiler, *words: str, **more: Any) -> Case:
    return Case(name, layout, spoil, "warned", words, **more)


def works(name: str, layout: str, spoil: Spoiler, **more: Any) -> Case:
    return Case(name, layout, spoil, "works", (), **more)


NO_FOLDER = [
    refused("a folder that is not there", "bare", elsewhere("other"), "other", "expected a folder", "nothing"),
    refused("a file in the place of the folder", "bare", elsewhere("model/vocab.txt"), "vocab.txt", "found a file"),
    refused("a name of the Hub", "bare", lambda _: Path("bert-base-uncased"), "Hugging Face Hub are not looked up"),
    refused("a name of the Hub with an owner", "bare", lambda _: Path("google/bert"), "Hub are not looked up"),
    refused("an address of the web", "bare", lambda _: Path("https://x.org/m"), "found nothing"),
    refused("a folder with nothing in it", "bare", without("config.json", BIN, "vocab.txt"), "no config.json"),
    refused("a name of 300 characters", "bare", elsewhere("n" * 300), "cannot be a model folder", "too long"),
    refused("the device that is always empty", "bare", lambda _: Path("/dev/null"), "/dev/null", "found a file"),
]


def moved_inside(folder: Path) -> None:
    """Put the weights into a folder within."""
    (folder / "checkpoint").mkdir()
    (folder / BIN).rename(folder / "checkpoint" / BIN)


MISSING = [
    refused("no config.json", "bare", without("config.json"), "no config.json", "found", "vocab.txt", BIN),
    refused("a config.json of 0 bytes", "bare", holding("config.json", ""), "config.json", "empty"),
    refused("a config.json of blanks", "bare", holding("config.json", " \n \n"), "config.json", "broken JSON"),
    refused("no weights", "bare", without(BIN), "no weights", "Accepted", SAFE, "There", "vocab.txt"),
    refused("a .bin of 0 bytes", "bare", holding(BIN, ""), BIN, "empty (0 bytes)"),
    refused("a safetensors of 0 bytes", "safe", holding(SAFE, ""), SAFE, "empty (0 bytes)"),
    refused(
        "weights of TensorFlow alone",
        "bare",
        all_of(without(BIN), holding("tf_model.h5", b"\x89HDF\r\n")),
        "only weights of TensorFlow",
        "tf_model.h5",
    ),
    refused(
        "weights of Flax and ONNX alone",
        "bare",
        all_of(without(BIN), holding("flax_model.msgpack", b"\x81"), holding("onnx/model.onnx", b"\x08")),
        "only weights of Flax, weights of ONNX",
    ),
    refused(
        "an adapter without its base model",
        "bare",
        all_of(without(BIN), holding("adapter_model.safetensors", b"")),
        "adapter (PEFT)",
    ),
    refused(
        "weights in a folder inside",
        "bare",
        moved_inside,
        "'checkpoint' holds weights; give that one",
    ),
    refused("no vocab.txt", "bare", without("vocab.txt"), "no tokenizer", "vocab.txt or tokenizer.json"),
    refused("a vocab.txt of 0 bytes", "bare", holding("vocab.txt", ""), "vocab.txt", "empty"),
    refused("a vocab.txt of line feeds", "bare", holding("vocab.txt", "\n\n\n"), "vocab.txt", "empty"),
    refused("a tokenizer.json of 0 bytes", "bare", holding("tokenizer.json", ""), "tokenizer.json", "empty"),
    refused("a modules.json of 0 bytes", "old", holding("modules.json", ""), "modules.json", "empty"),
    refused("no pooling folder", "old", without("1_Pooling/config.json"), "1_Pooling/config.json", "missing"),
]


def flipped(data: bytes, where: float, n: int = 64) -> bytes:
    """Return the bytes with some of them inverted, from a share of their length on."""
    start = int(len(data) * where)
    return data[:start] + bytes(byte ^ 0xFF for byte in data[start : start + n]) + data[start + n :]


DAMAGED = [
    refused(
        "a .bin cut in half", "bare", edited(BIN, lambda d: d[: len(d) // 2]), BIN, "incomplete or damaged", "byte"
    ),
    refused("a .bin that lacks its last byte", "bare", edited(BIN, lambda d: d[:-1]), BIN, "incomplete or damaged"),
    refused("a .bin with 64 bytes flipped", "bare", edited(BIN, lambda d: flipped(d, 0.5)), BIN, "checksum"),
    refused("a .bin with one byte flipped", "bare", edited(BIN, lambda d: flipped(d, 0.4, 1)), BIN, "checksum"),
    refused("a .bin with bytes after its end", "bare", edited(BIN, lambda d: d + bytes(9)), BIN, "damaged"),
    refused("a safetensors cut in half", "safe", edited(SAFE, lambda d: d[: len(d) // 2]), SAFE, "incomplete", "has"),
    refused(
        "a safetensors cut in its header", "safe", edited(SAFE, lambda d: d[:100]), SAFE, "incomplete", "100 bytes"
    ),
    refused("a safetensors with a tail", "safe", edited(SAFE, lambda d: d + b"\0"), SAFE, "its header promises"),
    refused("a safetensors of zeros", "safe", edited(SAFE, lambda d: bytes(len(d))), SAFE, "damaged"),
    refused(
        "a safetensors with a broken header", "safe", edited(SAFE, lambda d: d[:8] + d[9:10] + d[9:]), SAFE, "JSON"
    ),
    refused("a vocab.txt cut at its second line", "bare", edited("vocab.txt", lambda d: d[:8]), "vocab.txt", "lacks"),
    refused("a head cut off", "towers", edited("head.safetensors", lambda d: d[:90]), "head.safetensors", "90 bytes"),
]

PICKLES = [
    refused("a zip that calls os.system", "bare", hostile(BIN), BIN, "posix.system", "nothing was run"),
    refused("a bare pickle that calls os.system", "bare", hostile(BIN, form="bare"), "posix.system", "nothing was run"),
    refused("a zip that calls open", "bare", hostile(BIN, call="builtins open"), "builtins.open"),
    refused("a bare pickle that calls eval", "bare", hostile(BIN, call="builtins eval", form="bare"), "builtins.eval"),
    refused("a zip that calls torch.load", "bare", hostile(BIN, call="torch load"), BIN),
    refused("a zip that calls torch.hub.load", "bare", hostile(BIN, call="torch.hub load"), "torch.hub.load"),
    refused(
        "a hostile zip named model.safetensors",
        "safe",
        holding(SAFE, calling("posix system", "touch ran")),
        SAFE,
        "pickle file of torch under a wrong name",
    ),
    refused("a hostile bare pickle named model.safetensors", "safe", hostile(SAFE, form="bare"), SAFE, "pickle file"),
    refused("a hostile shard", "bin_shards", hostile("pytorch_model-00002-of-00002.bin"), "00002", "posix.system"),
    refused("a hostile pickle as head", "towers", hostile("head.safetensors"), "head.safetensors", "pickle file"),
    refused("a hostile pickle as config.json", "bare", hostile("config.json", form="bare"), "config.json", "UTF-8"),
    refused("a hostile pickle as vocab.txt", "bare", hostile("vocab.txt", form="bare"), "vocab.txt", "UTF-8"),
    refused(
        "a pickle that asks for 16 GiB",
        "bare",
        holding(
            BIN, with_record(b"\x80\x02cbuiltins\nbytearray\n\x8a\x05" + (2**34).to_bytes(5, "little") + b"\x85R.")
        ),
        "builtins.bytearray",
    ),
    works(
        "hostile files of a trainer beside good weights",
        "bare",
        hostile("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "scaler.pt"),
    ),
    works(
        "pipes in the places of a trainer's files, which would hang whoever opens them",
        "bare",
        as_pipe("optimizer.pt", "scheduler.pt", "rng_state.pth", "rng_state_0.pth", "training_args.bin"),
    ),
    works("a good safetensors beside a hostile .bin", "safe", hostile(BIN)),
    works("a good safetensors beside a pipe named .bin", "safe", as_pipe(BIN)),
    refused(
        "a broken safetensors beside a hostile .bin", "safe", all_of(hostile(BIN), holding(SAFE, "x")), SAFE, "1 b"
    ),
    refused(
        "an empty safetensors beside a good .bin",
        "bare",
        holding(SAFE, ""),
        SAFE,
        "empty",
    ),
]

FOREIGN = [
    refused("a git-lfs pointer as .bin", "bare", holding(BIN, POINTER), BIN, "git-lfs pointer", "git lfs pull"),
    refused("a git-lfs pointer as safetensors", "safe", holding(SAFE, POINTER), SAFE, "git lfs pull"),
    refused("a git-lfs pointer as vocab.txt", "bare", holding("vocab.txt", POINTER), "vocab.txt", "git lfs pull"),
    refused("a git-lfs pointer as tokenizer.json", "bare", holding("tokenizer.json", POINTER), "tokenizer.json", "lfs"),
    refused("a git-lfs pointer as config.json", "bare", holding("config.json", POINTER), "config.json", "git lfs pull"),
    refused(
        "a git-lfs pointer as head", "towers", holding("head.safetensors", POINTER), "head.safetensors", "lfs pull"
    ),
    refused(
        "a git-lfs pointer as shard",
        "shards",
        holding("model-00001-of-00002.safetensors", POINTER),
        "model-00001",
        "git lfs pull",
    ),
    refused("a web page as .bin", "bare", holding(BIN, PAGE), BIN, "HTML page"),
    refused("a web page as safetensors", "safe", holding(SAFE, PAGE), SAFE, "HTML page"),
    refused("a web page as vocab.txt", "bare", holding("vocab.txt", PAGE), "vocab.txt", "HTML page"),
    refused("a web page as config.json", "bare", holding("config.json", PAGE), "config.json", "HTML page"),
    refused("a web page as sbert_ft.json", "own", holding("sbert_ft.json", PAGE), "sbert_ft.json", "HTML page"),
    refused("a web page as pooling", "old", holding("1_Pooling/config.json", PAGE), "1_Pooling", "HTML page"),
    refused("a safetensors named .bin", "bare", holding(BIN, safetensors_bytes(a=torch.ones(9))), BIN, "wrong name"),
    refused("a .gz as vocab.txt", "bare", holding("vocab.txt", b"\x1f\x8b\x08" + bytes(90)), "vocab.txt", "UTF-8"),
]

BOMBS = [
    refused("a zip bomb as .bin", "bare", holding(BIN, deflated_bomb), BIN, "compressed"),
    refused("a header of 2**63 bytes", "safe", holding(SAFE, (2**63).to_bytes(8, "little") + b"{}"), "header promises"),
    refused(
        "a header that names a tensor of 2**60 elements",
        "safe",
        holding(SAFE, header_of({"a": {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 2**62]}})),
        SAFE,
        "damaged",
    ),
    refused("a header of 17 MiB", "safe", holding(SAFE, lambda: header_of(b"{" + b" " * (17 * 2**20) + b"}")), "17825"),
    refused(
        "a header nested 100,000 deep",
        "safe",
        holding(SAFE, lambda: header_of(b'{"a":' * 100_000 + b"1" + b"}" * 100_000)),
        "nested too deeply",
    ),
    refused("50 million layers", "bare", config(num_hidden_layers=50_000_000), "num_hidden_layers", "1 to 1,000"),
    refused("a thousand layers for two", "bare", config(num_hidden_layers=1000), "num_hidden_layers", "tensors"),
    refused("a width of two billion", "bare", config(hidden_size=2_000_000_000), "hidden_size", "2000000000"),
    refused("a width of a million", "bare", config(hidden_size=2**20), "hidden_size", "1048576"),
    refused("a vocabulary of 2**31 rows", "bare", config(vocab_size=2**31), "vocab_size", "2147483648"),
    refused("a vocabulary of 2**31 - 1 rows", "bare", config(vocab_size=2**31 - 1), "vocab_size", "2147483647 x 32"),
    refused("positions for 2**31 - 1 tokens", "bare", config(max_position_embeddings=2**31 - 1), "max_position_embedd"),
    refused("2**31 positions", "bare", config(max_position_embeddings=2**31), "max_position_embeddings", "expected"),
    refused("an inner width of two billion", "bare", config(intermediate_size=2_000_000_000), "intermediate_size"),
    refused("a billion heads", "bare", config(num_attention_heads=10**9), "num_attention_heads"),
    refused("a number of 5,000 digits", "bare", edited("config.json", lambda d: d.replace(b"32", b"9" * 5000)), "JSON"),
    warned("4 GiB of a tensor that nothing needs", "safe", with_sparse_tail(2**32), "does not use", "unused"),
    refused(
        "a vocab.txt of 10 million lines",
        "bare",
        holding("vocab.txt", lambda: b"abc\n" * 10**7),
        "vocab.txt",
        "10,000,000 lines",
        "298 rows",
    ),
    refused(
        "a line of 50 MB in vocab.txt",
        "bare",
        edited("vocab.txt", lambda d: d + b"x" * 50_000_000 + b"\n"),
        "vocab.txt",
        "line",
    ),
    refused(
        "a tokenizer.json of 60 MB for 298 rows",
        "bare",
        holding("tokenizer.json", lambda: b'{"model": {"vocab": {' + b'"abcdef":1,' * (6 * 10**6) + b'"a":1}}}'),
        "tokenizer.json",
        "larger than",
    ),
    refused(
        "a config.json of 64 MB", "bare", holding("config.json", lambda: b"{" + b" " * 64_000_000 + b"}"), "larger"
    ),
]


def half_prefixed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {("bert." if place % 2 else "") + key: tensor for place, (key, tensor) in enumerate(state.items())}


def as_tensorflow(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the names that conversions from TensorFlow had."""
    ends = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    named = {}
    for key, tensor in state.items():
        end = next((old for old in ends if key.endswith(old)), None)
        named[key if end is None else key.removesuffix(end) + ends[end]] = tensor
    return named


MASKED = {"cls__predictions__bias": torch.zeros(9), "cls__predictions__decoder__weight": torch.zeros(9, 32)}

PREFIXES = ("bert.", "module.", "model.", "module.bert.", "model.bert.", "module.model.bert.", "_orig_mod.")
PREFIXES += ("0.auto_model.", "auto_model.", "_orig_mod.module.", "module.0.auto_model.", "model._orig_mod.bert.")

NAMES = [
    *(
        works(f"names that begin with {prefix}", "bare" if place % 2 else "safe", prefixed(prefix))
        for place, prefix in enumerate(PREFIXES)
    ),
    works("every other name with a prefix", "safe", weights(half_prefixed)),
    refused("names with an unknown prefix", "safe", prefixed("encoder.bert."), "are missing", "encoder.bert."),
    refused("names with twelve wrappers", "safe", prefixed("module." * 12), "are missing"),
    refused(
        "a tensor under two names",
        "safe",
        weights(lambda state: {**state, "bert." + NORM: state[NORM]}),
        "both claim to be",
        NORM,
    ),
    works("gamma and beta", "bare", weights(as_tensorflow)),
    works("a buffer of position_ids", "safe", with_more(embeddings__position_ids=torch.arange(64)[None])),
    works(
        "heads of masked words and next sentences",
        "bare",
        with_more(**MASKED, cls__seq_relationship__bias=torch.zeros(2)),
    ),
    works("no pooler", "safe", without_tensors("pooler")),
    works("a state dict within a dict", "bare", weights(lambda state: {"state_dict": state})),
    refused("one tensor missing", "bare", without_tensors(NORM), "1 of", "missing", NORM),
    refused("one layer missing", "safe", without_tensors("layer.1."), "16 of", "missing", "layer.1."),
    refused("unrelated names", "safe", holding(SAFE, safetensors_bytes(a__b=torch.ones(4))), "missing", "a.b"),
    refused("an empty dict", "bare", weights(lambda _: {}), BIN, "an empty dict"),
    refused("a list of tensors", "bare", weights(lambda state: list(state.values())), BIN, "a list"),
    refused("one tensor without a name", "bare", weights(lambda state: state[WORDS]), BIN, "a Tensor"),
    refused("names that are numbers", "bare", weights(lambda state: dict(enumerate(state.values()))), BIN, "by a int"),
    refused(
        "one layer more than in config.json",
        "safe",
        weights(lambda state: {**state, **{k.replace("r.1.", "r.2."): t for k, t in state.items()}}),
        "layers beyond the 2 of num_hidden_layers",
        "layer.2.",
    ),
    warned("a tensor that the encoder has no use for", "safe", with_more(adapter__up=torch.ones(4)), "adapter.up"),
]

SHAPES = [
    refused("another width", "bare", config(hidden_size=64), "32", "64", "hidden_size"),
    refused("another vocab_size", "bare", config(vocab_size=999), "999 x 32", "vocab_size"),
    refused("other positions", "safe", config(max_position_embeddings=128), "64 x 32", "128 x 32", "max_position_emb"),
    refused("other token types", "safe", config(type_vocab_size=3), "2 x 32", "3 x 32", "type_vocab_size"),
    refused("another inner width", "bare", config(intermediate_size=128), "intermediate_size"),
    refused("fewer layers in config.json", "safe", config(num_hidden_layers=1), "beyond the 1 of num_hidden_layers"),
    refused("more layers in config.json", "safe", config(num_hidden_layers=3), "missing", "layer.2."),
    refused("a table that lies on its side", "safe", with_tensor(WORDS, lambda t: t.T), WORDS, "32 x"),
    refused("a scalar for a vector", "bare", with_tensor(NORM, lambda t: t[0]), NORM, "a scalar"),
    refused(
        "heads that do not divide the width", "bare", config(num_attention_heads=5), "not a multiple of num_attention"
    ),
]


def lines_added(n: int) -> Spoiler:
    return vocabulary(lambda tokens: tokens + [f"[unused{i}]" for i in range(n)])


def padded_rows(n: int) -> Spoiler:
    """Give the word table more rows than there are tokens."""

    def spoil(folder: Path) -> None:
        rows = get_json(folder / "config.json")["vocab_size"] + n
        config(vocab_size=rows)(folder)
        with_tensor(WORDS, lambda table: torch.cat((table, torch.zeros(n, 32))))(folder)

    return spoil


def lower_separator(folder: Path) -> None:
    """Put U+2028 into a token, on which str.splitlines would split; no text has it."""
    vocabulary(lambda tokens: [*tokens[:-1], "x\u2028y"])(folder)


VOCABULARY = [
    refused("a line more than rows", "bare", lines_added(1), "vocab.txt", "tokens", "rows"),
    refused("a vocabulary of other weights", "safe", lines_added(900), "vocab.txt", "vocabulary that belongs to"),
    works("rows up to a multiple of 64", "bare", padded_rows(27)),
    warned("a row more than lines", "safe", padded_rows(1), "one token short"),
    works("carriage returns", "bare", edited("vocab.txt", lambda d: d.replace(b"\n", b"\r\n"))),
    works("a byte order mark in vocab.txt", "bare", edited("vocab.txt", lambda d: b"\xef\xbb\xbf" + d)),
    works("no line feed at the end", "safe", edited("vocab.txt", lambda d: d[:-1])),
    works("line feeds at the end", "safe", edited("vocab.txt", lambda d: d + b"\n\n\n")),
    works("a token with U+2028 in it", "bare", lower_separator),
    warned("a token twice", "bare", vocabulary(lambda t: [*t[:-1], "dog"]), "duplicate", "'dog'", same=False),
    refused("no [UNK]", "bare", vocabulary(lambda t: ["[X]" if x == "[UNK]" else x for x in t]), "[UNK]", "vocab.txt"),
    refused("no [CLS]", "bare", vocabulary(lambda t: ["[X]" if x == "[CLS]" else x for x in t]), "[CLS]", "vocab.txt"),
    refused("no [PAD]", "safe", vocabulary(lambda t: ["[X]" if x == "[PAD]" else x for x in t]), "[PAD]", "vocab.txt"),
    refused("a vocab.txt in UTF-16", "bare", edited("vocab.txt", lambda d: d.decode().encode("utf-16")), "UTF-16"),
    refused(
        "a vocab.txt in UTF-16 without a mark",
        "bare",
        edited("vocab.txt", lambda d: d.decode().encode("utf-16-le")),
        "UTF-16",
    ),
    refused(
        "a vocab.txt in Latin-1", "bare", edited("vocab.txt", lambda d: d + b"caf\xe9\n"), "not UTF-8", "line", "0xe9"
    ),
    refused("a blank line in vocab.txt", "bare", vocabulary(lambda t: [*t[:9], "", *t[9:]]), "line 10", "blank"),
    refused(
        "a vocab.txt with a column of counts",
        "bare",
        edited("vocab.txt", lambda d: d.replace(b"\n", b"\t1\n")),
        "lacks",
    ),
    works("do_lower_case true", "bare", change_json("tokenizer_config.json", do_lower_case=True)),
    works("do_lower_case false", "bare", change_json("tokenizer_config.json", do_lower_case=False), same=False),
    refused(
        "do_lower_case as text",
        "bare",
        change_json("tokenizer_config.json", do_lower_case="false"),
        "do_lower_case",
        "true, false or null",
    ),
    warned(
        "casing in both files that differs",
        "bare",
        all_of(tokenizer_json(), change_json("tokenizer_config.json", do_lower_case=False)),
        "disagree on do_lower_case",
        same=False,
    ),
]

NUMBERS = [
    works("float16 weights", "safe", of_type(torch.float16), tolerance=4e-3),
    works("bfloat16 weights", "safe", of_type(torch.bfloat16), tolerance=4e-2),
    works("float64 weights", "bare", of_type(torch.float64)),
    works("weights of mixed types", "bare", with_tensor(WORDS, torch.Tensor.half), tolerance=4e-3),
    *(
        refused(f"{name} weights", "safe" if place % 2 else "bare", of_type(getattr(torch, name)), name, "expected")
        for place, name in enumerate(("int8", "uint8", "bool", "int64", "complex64", "float8_e4m3fn", "float8_e5m2"))
    ),
    refused("one matrix in int8", "safe", with_tensor(QUERY, lambda t: t.to(torch.int8)), QUERY, "int8", "Quantized"),
    refused(
        "quantized weights of torch",
        "bare",
        with_tensor(QUERY, lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)),
        BIN,
        "quantized",
    ),
    refused("a sparse tensor", "bare", with_tensor(QUERY, torch.Tensor.to_sparse), QUERY, "sparse"),
    refused(
        "NaN in a tensor", "safe", with_tensor(NORM, lambda t: t.clone().fill_(float("nan"))), NORM, "NaN", "32 of"
    ),
    refused("infinity in a tensor", "bare", with_tensor(QUERY, lambda t: t / 0), QUERY, "infinity", BIN),
    refused("numbers beyond float32", "bare", with_tensor(QUERY, lambda t: t.double() * 1e300), QUERY, "infinity"),
    refused(
        "NaN in the head", "towers", lambda f: put_head(f, "output.bias", torch.tensor([0.0, float("nan")])), "NaN"
    ),
    works("weights of zeros", "safe", weights(lambda s: {k: t * 0 for k, t in s.items()}), same=False, doctor="fails"),
    refused(
        "weights of 1e30, which overflow",
        "bare",
        with_tensor(WORDS, lambda t: t * 1e30),
        "NaN or infinite",
        "position 0",
        doctor="passes",
    ),
]


def put_head(folder: Path, name: str, tensor: torch.Tensor | None) -> None:
    """Change, add or (for None) remove a tensor of a head."""
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "head.safetensors")
    state.pop(name, None)
    save_file({**state, **({} if tensor is None else {name: tensor})}, folder / "head.safetensors")


def shard_of(index: str, place: str) -> Spoiler:
    """Let an index read the first tensor from another place."""

    def spoil(folder: Path) -> None:
        content = get_json(folder / index)
        content["weight_map"][next(iter(content["weight_map"]))] = place
        put_json(folder / index, content)

    return spoil


INDEX = f"{SAFE}.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"

SHARDS = [
    works("shards of safetensors", "shards", nothing),
    works("shards of .bin", "bin_shards", nothing),
    works("shards beside one whole file", "shards", lambda f: whole_beside(f)),
    refused("a shard missing", "shards", without(SECOND), SECOND, "missing"),
    refused("a shard missing of a .bin", "bin_shards", without("pytorch_model-00001-of-00002.bin"), "00001", "missing"),
    refused("a shard of 0 bytes", "shards", holding(FIRST, ""), FIRST, "empty"),
    refused(
        "a shard twice", "shards", lambda f: (f / SECOND).write_bytes((f / FIRST).read_bytes()) and None, "both hold"
    ),
    refused("an index that promises more", "shards", change_inner(INDEX, "weight_map", more=FIRST), "more", "lacks"),
    *(
        refused(f"an index that names {place}", "shards", shard_of(INDEX, place), "leaves the folder", "index.json")
        for place in ("../other.safetensors", "/etc/passwd", "..\\other", "C:\\x", "sub/x.safetensors", "..", "")
    ),
    refused("an index that names a number", "shards", shard_of(INDEX, 7), "leaves the folder"),  # type: ignore[arg-type]
    refused("an index without a map", "shards", change_json(INDEX, "weight_map"), INDEX, "weight_map"),
    refused("an index that is a list", "shards", holding(INDEX, "[]"), INDEX, "an array"),
]


def whole_beside(folder: Path) -> None:
    """Put all tensors of shards into one file beside them; the hostile index must then not count."""
    from safetensors.torch import load_file, save_file

    state = {key: tensor for name in (FIRST, SECOND) for key, tensor in load_file(folder / name).items()}
    save_file(state, folder / SAFE)


CODE = {"AutoModel": "modeling.Evil", "AutoConfig": "modeling.EvilConfig"}
EVIL = "open('ran', 'w').close()\nclass Evil: pass\n"
FOREIGN_MODULES = ("os.system", "builtins.eval", "modeling.Evil", ST + "WordEmbeddings", ST + "CNN", ST + "LayerNorm")

FOREIGN_CODE = [
    warned(
        "auto_map in config.json",
        "bare",
        all_of(config(auto_map=CODE), holding("modeling.py", EVIL)),
        "auto_map",
        "never run",
    ),
    warned(
        "auto_map in tokenizer_config.json",
        "bare",
        all_of(
            change_json("tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling.Evil", None]}),
            holding("modeling.py", EVIL),
        ),
        "tokenizer_config.json",
        "auto_map",
    ),
    *(
        refused(
            f"the module {kind}",
            "old",
            all_of(
                holding("modeling.py", EVIL),
                holding("modules.json", json.dumps(modules(("", "Transformer"), ("", kind)))),
            ),
            "modules.json",
            kind,
            "not supported",
        )
        for kind in FOREIGN_MODULES
    ),
    refused(
        "a dense layer after pooling",
        "old",
        holding(
            "modules.json", json.dumps(modules(("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense")))
        ),
        "models.Dense",
        "vectors would be different",
    ),
    *(
        refused(
            f"a module in {place}",
            "old",
            holding("modules.json", json.dumps(modules(("", "Transformer"), (place, "Pooling")))),
            "modules.json",
            "leaves the folder",
        )
        for place in ("../1_Pooling", "/etc", "..\\1_Pooling", "1_Pooling/../../x")
    ),
    refused("modules that are numbers", "old", holding("modules.json", "[1, 2]"), "modules.json", "a type and a path"),
    refused("modules that are an object", "old", holding("modules.json", "{}"), "modules.json", "holds an object"),
    refused("no module", "old", holding("modules.json", "[]"), "modules.json", "expected Transformer"),
    refused(
        "a pooling that is not known",
        "new",
        change_json("1_Pooling/config.json", pooling_mode="lasttoken"),
        "lasttoken",
    ),
    refused(
        "two poolings at once", "old", change_json("1_Pooling/config.json", pooling_mode_cls_token=True), "pooling"
    ),
    refused(
        "a similarity that is not known",
        "old",
        change_json("config_sentence_transformers.json", similarity_fn_name="os.system"),
        "similarity_fn_name",
    ),
    works(
        "an attention of the Hub",
        "bare",
        config(
            _attn_implementation_internal="kernels-community/flash-attn",
            attn_implementation="kernels-community/x",
            _attn_implementation="a/b",
        ),
    ),
    works("a chat_template that is a path", "bare", change_json("tokenizer_config.json", chat_template="../../evil")),
    works(
        "chat_templates by names that are paths",
        "bare",
        change_json("tokenizer_config.json", chat_template=[{"name": "../../evil", "template": "x"}]),
    ),
    works(
        "names of files elsewhere",
        "bare",
        change_json(
            "tokenizer_config.json", vocab_file="/etc/passwd", tokenizer_file="../../x", name_or_path="evil/model"
        ),
    ),
    works("a _name_or_path of the Hub", "bare", config(_name_or_path="evil/model", _commit_hash="0" * 40)),
    refused(
        "a tokenizer_class that is a module",
        "bare",
        change_json("tokenizer_config.json", tokenizer_class="os.system"),
        "vocab.txt",
        "'os.system', which is not known here",
        "bring a tokenizer.json",
    ),
    refused(
        "a tokenizer_class that is no text",
        "bare",
        change_json("tokenizer_config.json", tokenizer_class=["a"]),
        "tokenizer_class is",
        "expected a text",
    ),
    refused(
        "a tokenizer_class of MeCab in config.json",
        "bare",
        all_of(
            config(tokenizer_class="BertJapaneseTokenizer"),
            change_json("tokenizer_config.json", word_tokenizer_type="mecab"),
        ),
        "vocab.txt",
        "'BertJapaneseTokenizer', which splits Japanese",
        "word_tokenizer_type 'mecab'",
        "bring a tokenizer.json",
    ),
    refused(
        "pieces of SentencePiece without their model",
        "bare",
        vocabulary(lambda t: [f"▁{x}" if x.isalpha() else x for x in t]),
        "vocab.txt",
        "there is no model file of it",
        "tokenizer_78b3253a26.model",
    ),
    refused(
        "a SentencePiece model cut off",
        "bare",
        all_of(without("vocab.txt"), holding("spiece.model", b"\x0a\x0e\x0a\x05[UNK]\x15")),
        "spiece.model",
        "not a SentencePiece model, or is incomplete",
    ),
    refused(
        "a web page as a SentencePiece model",
        "bare",
        all_of(without("vocab.txt"), holding("spiece.model", PAGE)),
        "spiece.model",
        "HTML page",
    ),
    refused(
        "a SentencePiece model of 5 million pieces",
        "bare",
        all_of(without("vocab.txt"), holding("spiece.model", lambda: b"\x0a\x00" * 5_000_000)),
        "spiece.model",
        "more than 1,620 pieces",
    ),
    refused(
        "added_tokens.json with 100,000 tokens",
        "bare",
        change_json("added_tokens.json", **{f"token{i}": 298 + i for i in range(100_000)}),
        "100,298 tokens",
        "embedding",
    ),
    refused(
        "additional_special_tokens that are no texts",
        "bare",
        change_json("tokenizer_config.json", additional_special_tokens=[1, {"a": 2}]),
        "tokenizer_config.json",
        "adds the token '1'",
        "expected a text",
    ),
    works(
        "python files with the names of libraries",
        "bare",
        all_of(
            *(
                holding(f"{n}.py", EVIL)
                for n in ("json", "torch", "numpy", "transformers", "sitecustomize", "conftest")
            ),
            holding("__init__.py", EVIL),
        ),
    ),
]

KINDS = [
    refused("a GPT-2", "bare", config(model_type="gpt2"), "model_type", "gpt2", "expected one of bert"),
    refused("a T5", "bare", config(model_type="t5", is_encoder_decoder=True), "model_type", "t5"),
    warned(
        "a RoBERTa by its name, with the weights of a BERT",
        "bare",
        config(model_type="roberta"),
        "model_type is roberta",
        "'BertModel'",
        same=False,
    ),
    refused("a model_type that is a list", "bare", config(model_type=["bert"]), "model_type"),
    refused("a model_type that is null", "bare", config(model_type=None), "model_type"),
    works("no model_type, as in 2018", "bare", config("model_type", "architectures", "transformers_version")),
    refused(
        "relative positions",
        "bare",
        config(position_embedding_type="relative_key"),
        "position_embedding_type",
        "absolute",
    ),
    refused("an activation that is not known", "bare", config(hidden_act="os.system"), "hidden_act", "activation"),
    refused("an activation that is a list", "bare", config(hidden_act=["gelu"]), "hidden_act"),
    works("another activation", "bare", config(hidden_act="relu"), same=False),
    refused("a decoder", "bare", config(is_decoder=True), "is_decoder"),
    refused("cross attention", "bare", config(add_cross_attention=True), "add_cross_attention"),
    refused(
        "quantized by its config", "bare", config(quantization_config={"load_in_8bit": True}), "quantization_config"
    ),
    works(
        "one token type",
        "safe",
        all_of(config(type_vocab_size=1), with_tensor("embeddings.token_type_embeddings.weight", lambda t: t[:1])),
    ),
    refused("no token type", "safe", config(type_vocab_size=0), "type_vocab_size"),
    refused("a pad_token_id beyond the rows", "bare", config(pad_token_id=10**6), "pad_token_id", "vocab_size"),
    refused("a pad_token_id below zero", "bare", config(pad_token_id=-1), "pad_token_id"),
    refused("a layer_norm_eps of zero", "bare", config(layer_norm_eps=0), "layer_norm_eps", "above 0"),
    refused("a negative layer_norm_eps", "bare", config(layer_norm_eps=-1e-12), "layer_norm_eps"),
    refused("a layer_norm_eps that is text", "bare", config(layer_norm_eps="1e-12"), "layer_norm_eps"),
    refused("a layer_norm_eps that is NaN", "bare", config(layer_norm_eps=float("nan")), "config.json", "NaN"),
    refused(
        "a layer_norm_eps that is infinite",
        "bare",
        edited("config.json", lambda d: d.replace(b"1e-12", b"1e999")),
        "config.json",
        "1e999",
    ),
    refused("a dropout of 2", "bare", config(hidden_dropout_prob=2.0), "hidden_dropout_prob", "probability"),
    refused("a dropout of attention of 1", "bare", config(attention_probs_dropout_prob=1.0), "attention_probs_dropout"),
    refused("an initializer_range that is text", "bare", config(initializer_range="0.02"), "initializer_range"),
    refused("a negative initializer_range", "bare", config(initializer_range=-1), "initializer_range"),
    works(
        "settings of generation and unknown ones",
        "bare",
        config(
            use_cache=True,
            temperature=3.0,
            foo="bar",
            torch_dtype="float16",
            tie_word_embeddings=False,
            output_attentions=True,
        ),
    ),
]

CONFIG = [
    refused(
        "a config.json that is cut",
        "bare",
        edited("config.json", lambda d: d[:90]),
        "config.json",
        "broken JSON",
        "line",
    ),
    refused("a config.json that is a list", "bare", holding("config.json", "[]"), "config.json", "an array"),
    refused("a config.json that is null", "bare", holding("config.json", "null"), "config.json", "expected an object"),
    refused(
        "a config.json of 100,000 brackets", "bare", holding("config.json", "[" * 100_000), "config.json", "nested too"
    ),
    refused(
        "a config.json of 100,000 braces", "bare", holding("config.json", '{"a":' * 100_000), "config.json", "nested"
    ),
    refused(
        "a config.json in Latin-1",
        "bare",
        edited("config.json", lambda d: d.replace(b"{", b'{"n": "caf\xe9",', 1)),
        "UTF-8",
    ),
    refused("a config.json in UTF-16", "bare", edited("config.json", lambda d: d.decode().encode("utf-16")), "UTF-8"),
    works("a config.json with a byte order mark", "bare", edited("config.json", lambda d: b"\xef\xbb\xbf" + d)),
    refused(
        "a key twice",
        "bare",
        edited("config.json", lambda d: d.replace(b"{", b'{"hidden_size": 32,', 1)),
        "'hidden_size' stands twice",
    ),
    refused("a negative width", "bare", config(hidden_size=-32), "hidden_size", "'-32'"),
    refused("a width that is text", "bare", config(hidden_size="32"), "hidden_size", "whole number"),
    refused("a width that is a fraction", "bare", config(hidden_size=32.0), "hidden_size", "'32.0'"),
    refused("a width that is true", "bare", config(hidden_size=True), "hidden_size"),
    refused("a width that is null", "bare", config(hidden_size=None), "hidden_size"),
    refused("no layers", "bare", config(num_hidden_layers=0), "num_hidden_layers"),
    refused("no vocab_size in a table of others", "bare", config("vocab_size", "hidden_size"), "30522 x 768"),
    refused(
        "a comment in config.json", "bare", edited("config.json", lambda d: b"// a\n" + d), "broken JSON at line 1"
    ),
    refused(
        "a model_max_length that is text",
        "bare",
        change_json("tokenizer_config.json", model_max_length="512"),
        "model_max_length",
    ),
    refused(
        "a max_seq_length of zero", "old", change_json("sentence_bert_config.json", max_seq_length=0), "max_seq_length"
    ),
    works(
        "a max_seq_length beyond the positions", "old", change_json("sentence_bert_config.json", max_seq_length=9999)
    ),
    works("a model_max_length of thirty digits", "bare", change_json("tokenizer_config.json", model_max_length=10**30)),
    refused(
        "a broken tokenizer_config.json", "bare", holding("tokenizer_config.json", "{"), "tokenizer_config.json", "JSON"
    ),
    refused(
        "a broken special_tokens_map.json", "bare", holding("special_tokens_map.json", "[]"), "special_tokens_map.json"
    ),
]

LINKS = [
    works("a link to the folder", "bare", lambda f: (f.with_name("link").symlink_to(f), f.with_name("link"))[1]),
    works(
        "links to config.json and weights", "bare", all_of(as_link("config.json"), as_link(BIN), as_link("vocab.txt"))
    ),
    refused("a dangling link as config.json", "bare", linked_to("config.json", "gone"), "config.json", "not there"),
    refused("a dangling link as weights", "bare", linked_to(BIN, "../gone"), BIN, "not there"),
    refused("a dangling link as vocab.txt", "bare", linked_to("vocab.txt", "gone"), "vocab.txt", "not there"),
    refused(
        "a dangling link as tokenizer_config.json", "bare", linked_to("tokenizer_config.json", "gone"), "not there"
    ),
    refused("a link to itself", "bare", linked_to("config.json", "config.json"), "config.json", "cannot be opened"),
    refused(
        "a folder that is a dangling link",
        "bare",
        lambda f: (f.with_name("l").symlink_to("gone"), f.with_name("l"))[1],
        "dangling link",
    ),
    refused(
        "a folder that is a link to itself",
        "bare",
        lambda f: (f.with_name("l").symlink_to("l"), f.with_name("l"))[1],
        "l'",
    ),
    *(
        refused(f"a folder in the place of {name}", "own", as_folder(name), name, "is a folder")
        for name in ("config.json", SAFE, "vocab.txt", "tokenizer.json", "modules.json", "sbert_ft.json")
        if name != "vocab.txt"
    ),
    refused("a folder in the place of vocab.txt", "bare", as_folder("vocab.txt"), "vocab.txt", "is a folder"),
    *(
        refused(f"a pipe in the place of {name}", "old", as_pipe(name), name, "is a pipe")
        for name in ("config.json", SAFE, "vocab.txt", "tokenizer.json", "modules.json", "1_Pooling/config.json")
    ),
    refused("a pipe in the place of a head", "towers", as_pipe("head.safetensors"), "head.safetensors", "is a pipe"),
    refused("a device as config.json", "bare", linked_to("config.json", "/dev/zero"), "config.json", "a device"),
    refused("a device as weights", "bare", linked_to(BIN, "/dev/zero"), BIN, "a device"),
    refused("a device as vocab.txt", "bare", linked_to("vocab.txt", "/dev/zero"), "vocab.txt", "a device"),
    refused(
        "weights that may not be read",
        "bare",
        lambda f: (f / BIN).chmod(0),
        BIN,
        "Permission denied",
        unprivileged=True,
    ),
    refused(
        "a config.json that may not be read",
        "bare",
        lambda f: (f / "config.json").chmod(0),
        "config.json",
        "denied",
        unprivileged=True,
    ),
    refused("a folder that may not be entered", "bare", lambda f: f.chmod(0), "model", "denied", unprivileged=True),
]

ODD_NAMES = [
    works(f"a folder named {name!r}", "bare", renamed(name))
    for name in (
        "with a blank",
        " blanks around ",
        "한국어 모델",
        "quote'\"s",
        "$HOME `id` $(id)",
        "a\nb",
        "-dash",
        "100%s {x} \\n",
        "\x1b[2J\a",
        "~",
        "모" * 85,
    )
]

HEADS = [
    refused("no head", "towers", without("head.safetensors"), "head.safetensors", "copy the whole folder"),
    refused("a head of 0 bytes", "towers", holding("head.safetensors", ""), "head.safetensors", "empty"),
    refused(
        "a head of another width",
        "towers",
        lambda f: put_head(f, "output.weight", torch.ones(2, 64)),
        "2 x 64",
        "2 x 96",
    ),
    refused(
        "a head of three classes", "towers", lambda f: put_head(f, "output.bias", torch.ones(3)), "output.bias", "3"
    ),
    refused("a head without its bias", "towers", lambda f: put_head(f, "output.bias", None), "output.bias", "missing"),
    warned(
        "a head with a tensor more",
        "towers",
        lambda f: put_head(f, "dense.weight", torch.ones(3)),
        "head.safetensors",
        "dense.weight",
    ),
    refused("a head in int8", "towers", lambda f: put_head(f, "output.bias", torch.ones(2, dtype=torch.int8)), "int8"),
    refused(
        "a head whose sbert_ft.json is gone",
        "towers",
        without("sbert_ft.json"),
        "head.safetensors",
        "sbert_ft.json",
        doctor="passes",
        is_encoder=True,
    ),
    refused(
        "a stock head missing",
        "stock",
        without_tensors("classifier.weight"),
        "classifier.weight",
        "missing",
        doctor="passes",
    ),
    refused("a stock pooler missing", "stock", without_tensors("pooler"), "pooler", "missing", doctor="passes"),
    refused(
        "more labels than the head has",
        "stock",
        config(id2label={"0": "a", "1": "b", "2": "c"}),
        "2 x 32",
        "3 classes",
        doctor="passes",
    ),
    refused(
        "gaps in id2label",
        "stock",
        config(id2label={"0": "a", "2": "b"}),
        "id2label",
        "expected 0 to 1",
        doctor="passes",
    ),
    refused(
        "a class twice in id2label",
        "stock",
        config(id2label={"0": "a", "1": "a"}),
        "id2label",
        "'a' appears twice",
        doctor="passes",
    ),
    refused(
        "numbers in words in id2label",
        "stock",
        config(id2label={"zero": "a", "one": "b"}),
        "id2label",
        "zero",
        doctor="passes",
    ),
    refused("a list as id2label", "stock", config(id2label=["a", "b"]), "id2label", doctor="passes"),
    refused(
        "a million classes",
        "stock",
        lambda f: config(id2label={str(i): f"c{i}" for i in range(10**6)})(f),
        "1000000 classes",
        doctor="passes",
    ),
    works(
        "HTML and escapes in id2label",
        "stock",
        config(id2label={"0": "<script>alert(1)</script>", "1": "\x1b[2J\u202ex"}),
        labels=("<script>alert(1)</script>", "\x1b[2J\u202ex"),
    ),
    works("no id2label", "stock", config("id2label", "label2id"), labels=("LABEL_0", "LABEL_1")),
    refused(
        "several labels at once",
        "stock",
        config(problem_type="multi_label_classification"),
        "multi-label",
        doctor="passes",
    ),
    refused(
        "num_labels against the head",
        "stock",
        config("id2label", "label2id", num_labels=5),
        "5 classes",
        doctor="passes",
    ),
    refused("num_labels that are text", "stock", config("id2label", num_labels="2"), "num_labels", doctor="passes"),
    refused(
        "an encoder loaded as classifier",
        "stock",
        config(architectures=["BertModel"]),
        "holds no classifier",
        doctor="passes",
        is_encoder=True,
    ),
]

OWN = [
    refused(
        "a sbert_ft.json that is cut", "own", edited("sbert_ft.json", lambda d: d[:20]), "sbert_ft.json", "broken JSON"
    ),
    refused("a sbert_ft.json that is a list", "own", holding("sbert_ft.json", "[]"), "sbert_ft.json", "an array"),
    refused("a newer format", "own", change_json("sbert_ft.json", format=99), "sbert_ft.json", "format", "newer"),
    refused("a format that is text", "own", change_json("sbert_ft.json", format="1"), "sbert_ft.json", "format"),
    *(
        refused(
            f"a threshold that is {str(value)[:20]}",
            "own",
            change_inner("sbert_ft.json", "decision", threshold=value),
            "sbert_ft.json",
            said,
        )
        for value, said in (
            (float("nan"), "NaN"),
            (2.0, "threshold"),
            (-1e300, "threshold"),
            ("0.5", "threshold"),
            (True, "threshold"),
            (10**400, "threshold"),
        )
    ),
    refused(
        "a decision that is a list", "own", change_json("sbert_ft.json", decision=[]), "decision", "expected an object"
    ),
    refused("a decision without its threshold", "own", change_json("sbert_ft.json", decision={}), "decision has no"),
    *(
        refused(
            f"a calibration with {name}",
            "own",
            change_inner("sbert_ft.json", "decision", calibration=curve),
            "calibration",
        )
        for name, curve in {
            "unknown kind": {"kind": "spline"},
            "falling points": {"kind": "isotonic", "x": [0.5, -0.5], "y": [0.1, 0.9]},
            "falling probabilities": {"kind": "isotonic", "x": [-0.5, 0.5], "y": [0.9, 0.1]},
            "probabilities below 0": {"kind": "isotonic", "x": [-0.5, 0.5], "y": [-3.0, 0.9]},
            "fewer points than values": {"kind": "isotonic", "x": [0.5], "y": [0.1, 0.9]},
            "a huge slope": {"kind": "platt", "slope": 1e300, "intercept": 0.0},
            "a negative slope": {"kind": "platt", "slope": -2.0, "intercept": 0.0},
        }.items()
    ),
    refused("a score_scale that falls", "own", change_json("sbert_ft.json", score_scale=[5, 0]), "score_scale"),
    refused(
        "a classifier of an unknown kind",
        "towers",
        change_inner("sbert_ft.json", "classifier", kind="x"),
        "classifier.kind",
    ),
    refused(
        "classes of two types",
        "towers",
        change_inner("sbert_ft.json", "classifier", classes=["a", 1]),
        "classifier.classes",
    ),
    refused(
        "more classes than outputs",
        "towers",
        change_inner("sbert_ft.json", "classifier", classes=["a", "b", "c"]),
        "3 x 96",
    ),
    refused(
        "a temperature of zero", "towers", change_inner("sbert_ft.json", "classifier", temperature=0), "temperature"
    ),
    refused(
        "a key that is not known", "towers", change_inner("sbert_ft.json", "classifier", depth=3), "depth", "newer"
    ),
    works("keys of others", "own", change_json("sbert_ft.json", note={"by": "me"})),
]

PROMPTS = [
    warned(
        "prompts without modules.json",
        "bare",
        holding("config_sentence_transformers.json", '{"prompts": {"query": "q: "}, "default_prompt_name": "query"}'),
        "config_sentence_transformers.json",
        "modules.json",
    ),
    refused(
        "prompts that are a list", "old", change_json("config_sentence_transformers.json", prompts=["q"]), "prompts"
    ),
    refused(
        "a default prompt that is not there",
        "old",
        change_json("config_sentence_transformers.json", default_prompt_name="x"),
        "default_prompt_name",
    ),
    refused(
        "a prompt with a lone surrogate",
        "old",
        change_json("config_sentence_transformers.json", prompts={"a": "\ud800"}, default_prompt_name="a"),
        "prompt",
        "surrogate",
    ),
    works(
        "special_tokens_map.json with objects",
        "bare",
        holding("special_tokens_map.json", '{"unk_token": {"content": "[UNK]", "lstrip": false}}'),
    ),
    refused(
        "a special token of another vocabulary",
        "bare",
        holding("special_tokens_map.json", '{"cls_token": "<s>"}'),
        "<s>",
        "cls_token",
        "vocab.txt",
    ),
    refused(
        "a special token that is a number", "bare", holding("special_tokens_map.json", '{"unk_token": 7}'), "unk_token"
    ),
    refused(
        "a special token that is an empty object",
        "bare",
        holding("special_tokens_map.json", '{"unk_token": {"content": 3}}'),
        "unk_token",
    ),
]

EXPONENTIAL = {"Regex": "(a+)+$"}
SPLIT = {"type": "Split", "pattern": EXPONENTIAL, "behavior": "Isolated", "invert": False}
DOUBLED = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}

TOKENIZERS = [
    works("a tokenizer.json in place of vocab.txt", "bare", tokenizer_json()),
    works(
        "a tokenizer.json that cuts and pads",
        "bare",
        tokenizer_json(
            lambda c: c.update(
                truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
                padding={
                    "strategy": {"Fixed": 16},
                    "direction": "Right",
                    "pad_to_multiple_of": None,
                    "pad_id": 0,
                    "pad_type_id": 0,
                    "pad_token": "[PAD]",
                },
            )
        ),
    ),
    refused(
        "a normalizer that backtracks",
        "bare",
        tokenizer_key("normalizer", {"type": "Replace", "pattern": EXPONENTIAL, "content": "b"}),
        "tokenizer.json",
        "normalizer",
        "(a+)+$",
    ),
    refused(
        "a pre-tokenizer that backtracks",
        "bare",
        tokenizer_key("pre_tokenizer", SPLIT),
        "tokenizer.json",
        "pre_tokenizer",
        "(a+)+$",
    ),
    refused(
        "a normalizer that doubles forty times",
        "bare",
        tokenizer_key("normalizer", {"type": "Sequence", "normalizers": [DOUBLED] * 40}),
        "tokenizer.json",
        "normalizer",
    ),
    refused(
        "a normalizer that puts a megabyte before",
        "bare",
        tokenizer_key("normalizer", {"type": "Prepend", "prepend": "a" * 10**6}),
        "tokenizer.json",
        "normalizer",
    ),
    refused("a normalizer of an unknown type", "bare", tokenizer_key("normalizer", {"type": "Evil"}), "tokenizer.json"),
    refused(
        "a pre-tokenizer of an unknown type",
        "bare",
        tokenizer_key("pre_tokenizer", {"type": "os.system"}),
        "tokenizer.json",
    ),
    refused("a model of an unknown type", "bare", tokenizer_key("model.type", "Evil"), "tokenizer.json"),
    refused(
        "a regex that is none",
        "bare",
        tokenizer_key("pre_tokenizer", {**SPLIT, "pattern": {"Regex": "(["}}),
        "tokenizer.json",
    ),
    refused(
        "words of 10**9 characters",
        "bare",
        tokenizer_key("model.max_input_chars_per_word", 10**9),
        "max_input_chars_per_word",
    ),
    refused(
        "a model without its unknown token",
        "bare",
        tokenizer_key("model.unk_token", "<nope>"),
        "tokenizer.json",
        "<nope>",
    ),
    refused("a vocabulary that is a list", "bare", tokenizer_key("model.vocab", ["a"]), "tokenizer.json"),
    refused("an empty vocabulary", "bare", tokenizer_key("model.vocab", {}), "tokenizer.json"),
    refused(
        "token ids of 2**31",
        "bare",
        tokenizer_json(lambda c: c["model"]["vocab"].update(zzz=2**31)),
        "tokenizer.json",
        "2^31",
    ),
    refused(
        "a token id of 2**40", "bare", tokenizer_json(lambda c: c["model"]["vocab"].update(zzz=2**40)), "tokenizer.json"
    ),
    refused(
        "a negative token id", "bare", tokenizer_json(lambda c: c["model"]["vocab"].update(zzz=-1)), "tokenizer.json"
    ),
    refused(
        "two tokens with one id",
        "bare",
        tokenizer_json(lambda c: c["model"]["vocab"].update(zzz=5)),
        "tokenizer.json",
        same=False,
    ),
    refused(
        "added tokens beyond the rows",
        "bare",
        tokenizer_json(lambda c: c["added_tokens"].append({**c["added_tokens"][0], "id": 5000, "content": "[new]"})),
        "tokenizer.json",
        "rows",
    ),
    works(
        "an added token that swallows letters",
        "bare",
        tokenizer_json(
            lambda c: c["added_tokens"].append(
                {**c["added_tokens"][0], "id": 9, "content": "e", "lstrip": True, "rstrip": True, "special": False}
            )
        ),
        same=False,
    ),
    refused(
        "more special tokens around a text than positions",
        "bare",
        tokenizer_key(
            "post_processor.single",
            [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}] * 90 + [{"Sequence": {"id": "A", "type_id": 0}}],
        ),
        "special tokens",
        "90",
    ),
    refused(
        "a post-processor that doubles the text",
        "bare",
        tokenizer_key("post_processor.single", [{"Sequence": {"id": "A", "type_id": 0}}] * 2),
        "tokenizer.json",
    ),
    refused(
        "a post-processor without the text",
        "bare",
        tokenizer_key("post_processor.single", [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}]),
        "tokenizer.json",
    ),
    refused("tokens left out at random", "bare", lambda f: bpe(f, dropout=0.5), "tokenizer.json", "dropout"),
    works("a tokenizer of byte pairs", "bare", lambda f: bpe(f), same=False),
    refused(
        "a pre-tokenizer nested 100 deep",
        "bare",
        tokenizer_key(
            "pre_tokenizer",
            json.loads('{"type":"Sequence","pretokenizers":[' * 100 + '{"type":"Whitespace"}' + "]}" * 100),
        ),
        "tokenizer.json",
    ),
]


def bpe(folder: Path, **changes: object) -> None:
    """Put a byte-pair tokenizer with the vocabulary's tokens there."""

    def edit(content: dict[str, Any]) -> None:
        model = {"type": "BPE", "dropout": None, "unk_token": "[UNK]", "continuing_subword_prefix": None}
        model |= {"end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
        content["model"] = {**model, "vocab": content["model"]["vocab"], "merges": [], **changes}

    tokenizer_json(edit)(folder)


ROWS: dict[str, list[Case]] = {
    "no folder, a file, a name of the Hub": NO_FOLDER,
    "files missing or empty": MISSING,
    "cut and damaged weights": DAMAGED,
    "hostile pickles": PICKLES,
    "web pages and git-lfs pointers": FOREIGN,
    "sizes that no memory holds": BOMBS,
    "names of tensors": NAMES,
    "shapes against config.json": SHAPES,
    "vocabulary and casing": VOCABULARY,
    "types of numbers, NaN and zeros": NUMBERS,
    "shards": SHARDS,
    "foreign code and paths": FOREIGN_CODE,
    "kinds of encoders and their settings": KINDS,
    "config.json": CONFIG,
    "links, pipes, devices, permissions": LINKS,
    "odd names": ODD_NAMES,
    "heads and labels": HEADS,
    "sbert_ft.json": OWN,
    "prompts and special tokens": PROMPTS,
    "tokenizer.json": TOKENIZERS,
}
CASES = [case for cases in ROWS.values() for case in cases]
