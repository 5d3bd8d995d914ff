"""`SiameseBert`: a sentence encoder that torch runs and trains.

The Sentence-BERT model (Reimers and Gurevych 2019, section 3): mean pooling over the tokens' activations, compared by
cosine. Both sides of all pairs go through the shared encoder in the same packed forwards.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor
from torch.nn import functional as F

from sbert_ft.arguments import instance_argument, path_argument
from sbert_ft.encoder.batching import PoolingMode
from sbert_ft.encoder.devices import Precision, choose_device
from sbert_ft.encoder.packing import PackedBatch
from sbert_ft.engines.choice import EngineChoice, ExportPrecision
from sbert_ft.model_folder.layout import ModelFolder, read_folder, warn_of_classifier
from sbert_ft.model_folder.metadata import OwnSettings
from sbert_ft.model_folder.writer import EncoderParts, write_folder, write_sentence_encoder
from sbert_ft.models.connection_bert import ConnectionBert, TextModel
from sbert_ft.models.exported import ExportedEncoder, open_exported
from sbert_ft.models.inference import EmbedSettings, ordered_texts
from sbert_ft.models.sentence_encoder import OUTPUT_VALUES, SentenceEncoder
from sbert_ft.models.similarity import unit
from sbert_ft.models.token_features import token_features, tokens_of_features

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import BatchEncoding

    from sbert_ft.engines.graph_file import Engine, GraphPrecision
    from sbert_ft.models.export import ExportReport
    from sbert_ft.models.parity import Rows


class SiameseBert(TextModel, SentenceEncoder):
    """A sentence encoder that torch runs, and that can be trained; its attributes are those of `SentenceEncoder`."""

    def __init__(
        self,
        bert: ConnectionBert,
        pooling: PoolingMode | None = None,
        max_seq_length: int | None = None,
        truncate_dim: int | None = None,
    ) -> None:
        """Create a sentence encoder from an encoder.

        Args:
            bert: Tokenizer and encoder.
            pooling: ``mean``, ``cls`` or ``max``; None for the folder's.
            max_seq_length: Most tokens of a text, special ones included; None for the folder's.
            truncate_dim: How many first features of a vector to keep; None for what the folder says.

        Raises:
            InputError: A length that the encoder has no positions for, an unknown pooling, or more features than there
                are.
            ModelFolderError: The folder's sbert_ft.json is damaged.
        """
        super().__init__(bert, max_seq_length)
        self._read_settings(pooling, truncate_dim)
        warn_of_classifier(bert.source)

    @overload
    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path | ModelFolder,
        device: str | torch.device | None = ...,
        precision: Precision = ...,
        max_seq_length: int | None = ...,
        engine: Literal["torch"] = ...,
        truncate_dim: int | None = ...,
    ) -> SiameseBert: ...
    @overload
    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path | ModelFolder,
        device: str | torch.device | None = ...,
        precision: Precision | ExportPrecision = ...,
        max_seq_length: int | None = ...,
        *,
        engine: EngineChoice,
        truncate_dim: int | None = ...,
    ) -> SentenceEncoder: ...

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path | ModelFolder,
        device: str | torch.device | None = None,
        precision: Any = "auto",
        max_seq_length: int | None = None,
        engine: EngineChoice = "torch",
        truncate_dim: int | None = None,
    ) -> SentenceEncoder:
        """Return the model of a local folder; other arguments and errors as in `ConnectionBert.from_pretrained`.

        Args:
            folder: The model's folder.
            device: Where torch computes; other engines run on the CPU.
            precision: As there; with another engine than torch it may also be ``int8``.
            max_seq_length: Most tokens of a text, special ones included; None for the folder's.
            engine: ``torch``, whose model can be trained; ``onnxruntime`` or ``openvino`` for an `ExportedEncoder`, of
                a folder that `sbert-ft export` has written to; ``auto`` for the export that was measured faster than
                torch on this kind of CPU, where there is one.
            truncate_dim: How many first features of a vector to keep, for vectors and scores; None for what the folder
                says. A stored threshold and calibration are for another width and are left out.
        """
        source = read_folder(folder)
        if (bert := open_exported(source, engine, precision, device, "tokens")) is not None:
            return ExportedEncoder(bert, None, max_seq_length, truncate_dim)
        return cls(ConnectionBert.from_pretrained(source, device, precision), None, max_seq_length, truncate_dim)

    @overload
    def forward(self, batch: PackedBatch) -> Tensor: ...
    @overload
    def forward(self, batch: Mapping[str, Any]) -> dict[str, Any]: ...

    def forward(self, batch: PackedBatch | Mapping[str, Any]) -> Tensor | dict[str, Any]:
        """Return the vectors of a batch of ``bert.pack``: shape (N, d), float32, with gradients if torch records.

        Features as `tokenize` gives them are returned with ``token_embeddings``, shape (N, C, D), 0 where the mask is,
        and ``sentence_embedding``, shape (N, d), as in sentence-transformers.

        Raises:
            InputError: The features cannot be used, as in `tokens_of_features`.
        """
        if isinstance(batch, Mapping):
            mask, texts = tokens_of_features(self.bert, batch)
            packed = self.bert.pack(texts)
        else:
            packed = instance_argument(PackedBatch, batch, "batch")
        hidden = self.bert(packed)
        vectors = packed.pool(hidden, self.pooling)
        vectors = F.normalize(vectors, dim=-1) if self.normalize else vectors
        if not isinstance(batch, Mapping):
            return vectors
        tokens = vectors.new_zeros(*mask.shape, hidden.shape[-1])
        tokens[mask.to(tokens.device)] = torch.cat(packed.token_vectors(hidden))
        return {**batch, "token_embeddings": tokens, "sentence_embedding": vectors}

    def tokenize(self, texts: Iterable[str]) -> BatchEncoding:
        """Return the features of texts, for ``model(features)``: int64 tensors of shape (N, C), on the model's device.

        They are ``input_ids``, ``attention_mask`` and, where the encoder has them, ``token_type_ids``. Texts are cut at
        `max_seq_length`, and no prompt is put before them, as in sentence-transformers.

        Raises:
            InputError: Something is not a text, with its position, or there is none.
        """
        cut = {"truncation": True, "max_length": self.max_seq_length}
        return self.tokenizer(list(ordered_texts(texts)), padding=True, return_tensors="pt", **cut).to(self.device)

    def _device_of(self, device: Any) -> torch.device | None:
        return None if device is None else choose_device(device)

    def _compute_on(self, device: Any) -> None:
        target = choose_device(device)
        if (target.type, target.index or 0) != (self.device.type, self.device.index or 0):
            self.bert._settle(target, self.bert.compute_dtype)  # tries the layouts there

    def _of_tokens(
        self, texts: Iterable[str], settings: EmbedSettings, key: str | None, width: int, unit_length: bool
    ) -> Iterator[Any]:
        for features in token_features(self.bert, texts, settings):
            if self.normalize:
                features["sentence_embedding"] = unit(features["sentence_embedding"])
            for name in OUTPUT_VALUES if key is None else (key,):
                cut = features[name][..., :width]
                features[name] = unit(cut) if unit_length else cut
            yield features if key is None else features[key]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that sentence-transformers 2 to 6, transformers and embedding servers can load.

        Raises:
            OutputError: The folder cannot be written.
        """
        settings = replace(
            self.bert.source,
            pooling=self.pooling,
            normalize=self.normalize,
            max_seq_length=self.max_seq_length,
            similarity=self.similarity_fn_name,
            prompts=self.prompts,
            default_prompt_name=self.default_prompt_name,
            truncate_dim=self.truncate_dim,
        )
        others = OwnSettings.of(self.bert.source).others
        own = OwnSettings(self.decision, self.score_scale, others, pair_prompts=self.pair_prompts)
        parts = EncoderParts(self.bert.encoder, self.bert.pooler, self.tokenizer, settings, own)
        write_folder(path_argument(folder, "folder"), lambda place: write_sentence_encoder(parts, place))

    def export(
        self,
        folder: str | Path | None = None,
        engine: Engine = "onnxruntime",
        precision: GraphPrecision = "float32",
        texts: Rows | None = None,
        force: bool = False,
    ) -> ExportReport:
        """Write a graph of the model for an engine that runs it without torch, and return how it compares with torch.

        The files have the names that sentence-transformers, optimum and embedding servers look for.

        Args:
            folder: A folder to which the model is saved together with its graph; None to add the graph to the folder
                that the model was loaded from.
            engine: ``onnxruntime`` or ``openvino``.
            precision: ``float32``, ``int8``, or for openvino ``bfloat16``: a float32 graph that is run in bfloat16.
            texts: Texts or pairs on which the graph is compared with torch and int8 is calibrated; None for 64
                built-in ones, English and Korean.
            force: Write the graph even if its results are too far from torch's.

        Raises:
            InputError: The results are too far from torch's (docs/engines.md has the bounds), the encoder cannot be
                exported, or the model's weights are not those of its folder; nothing was written.
            OutputError: The files cannot be written.
            ResourceError: A package is not installed, or there is not enough memory.
        """
        from sbert_ft.models.export import export_model

        return export_model(self, self.save_pretrained, None, folder, engine, precision, texts, force)

    def save(self, path: str | Path) -> None:
        """Do what `save_pretrained` does, under its name in sentence-transformers."""
        self.save_pretrained(path_argument(path, "path"))

    def as_sentence_transformer(self) -> SentenceTransformer:
        """Return a `SentenceTransformer` that shares this encoder; a temporary folder is written to make it."""
        from sentence_transformers import SentenceTransformer

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            model = SentenceTransformer(folder, device=str(self.device), local_files_only=True)
        model[0].model = self.bert.encoder  # shared, so that training one trains the other
        model.similarity_fn_name = self.similarity_fn_name
        return model.eval()
