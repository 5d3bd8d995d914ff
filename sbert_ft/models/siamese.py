"""`SiameseBert`: one encoder for both texts of a pair, one vector a text, a cosine between them.

The Sentence-BERT model (Reimers and Gurevych 2019, section 3): mean pooling over the tokens'
activations, compared by cosine. Both sides of all pairs go through the shared encoder in one
packed forward. Names, defaults and types are those of sentence-transformers.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, device, nn
from torch.nn import functional as F
from tqdm import tqdm

from sbert_ft.arguments import instance_argument, path_argument, whole_number
from sbert_ft.encoder.devices import Precision, choose_device
from sbert_ft.encoder.packing import PackedBatch, PoolingMode
from sbert_ft.errors import InputError, quoted
from sbert_ft.model_folder.decision import Decision, chosen_threshold, reaches, stored_calibration
from sbert_ft.model_folder.layout import Similarity, warn_of_classifier
from sbert_ft.model_folder.metadata import COSINE_SCALE, OwnSettings
from sbert_ft.model_folder.writer import EncoderParts, SiameseSettings, save_siamese
from sbert_ft.models.connection_bert import ConnectionBert, compile_encoder
from sbert_ft.models.inference import (
    EmbedCount,
    EmbedSettings,
    OnTruncate,
    embed,
    embed_pairs,
    ordered_texts,
    warn_of_cuts,
)
from sbert_ft.models.similarity import Vectors, compare, cosine, unit
from sbert_ft.tokenization.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


Pairs = Iterable[tuple[str, str]]


def chosen_prompt(prompts: Mapping[str, str], default: str | None, name: str | None, prompt: str | None) -> str:
    """Return the text to put before each input.

    Args:
        prompts: The model's, by name.
        default: Name of the one that is used where none is named.
        name: The one that is asked for.
        prompt: A text in place of a named one.

    Raises:
        InputError: There is no prompt of this name, or it is no text.
    """
    if prompt is not None:
        return instance_argument(str, prompt, "prompt")
    name = default if name is None else name
    if name is None:
        return ""
    if not isinstance(name, str) or name not in prompts:
        known = ", ".join(quoted(known)[1:-1] for known in prompts) or "none"
        raise InputError(f"prompt_name is {quoted(name)}, but the model's prompts are: {known}")
    return prompts[name]


def chosen_width(truncate_dim: int | None, most: int) -> int:
    """Return how many features of a vector are kept, `most` for None.

    Raises:
        InputError: The number is none from 1 to `most`.
    """
    if truncate_dim is None:
        return most
    return whole_number(truncate_dim, "truncate_dim", 1, most)


@dataclass(frozen=True)
class ResultForm:
    """The form in which vectors are returned.

    Attributes:
        single: One vector, for a text that was given alone.
        as_numpy: An array, unless `as_tensor` holds; a list of tensors where neither does.
        as_tensor: One tensor on the model's device.
    """

    single: bool
    as_numpy: bool
    as_tensor: bool

    def gathered(
        self, parts: Iterable[Tensor], empty: Tensor, n_texts: int | None, show_progress_bar: bool | None
    ) -> NDArray[np.float32] | Tensor | list[Tensor]:
        """Return all parts in this form; where their number is known, no vector is ever held twice.

        Args:
            parts: Each of shape (texts of the part, d).
            empty: Shape (0, d): what no part at all amounts to.
            n_texts: How many there will be; None where that is not known.
            show_progress_bar: None for a bar where logging is at INFO or DEBUG.
        """
        if show_progress_bar is None:
            show_progress_bar = logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
        to_host = self.as_numpy and not self.as_tensor
        device = torch.device("cpu") if to_host else empty.device
        whole = torch.empty(n_texts or 0, empty.shape[1], device=device)
        kept = []
        n_done = 0
        with tqdm(total=n_texts, unit="text", disable=not show_progress_bar) as bar:
            for part in parts:
                bar.update(len(part))
                if n_texts is None:
                    kept.append(part.to(device))
                else:
                    whole[n_done : n_done + len(part)] = part
                n_done += len(part)
                del part  # before the next one is computed
        whole = torch.cat(kept) if kept else whole
        result = whole[0] if self.single else whole
        if to_host:
            array: NDArray[np.float32] = result.cpu().numpy()
            return array
        return result if self.as_tensor or self.single else list(result)


def around_encoder(
    encoder: PreTrainedModel, save: Callable[[str], None], target: device, similarity: Similarity
) -> SentenceTransformer:
    """Return a `SentenceTransformer` whose encoder is the given one, so that training one trains the other.

    That class is made from a folder, so one is written to a temporary place; the encoder read from it is then replaced.

    Args:
        encoder: The stock module.
        save: Writes the model's folder to the path that it is given.
        target: Where the encoder's weights are.
        similarity: How vectors are compared.
    """
    from sentence_transformers import SentenceTransformer

    with tempfile.TemporaryDirectory() as folder:
        save(folder)
        model = SentenceTransformer(folder, device=str(target), local_files_only=True)
    model[0].model = encoder
    model.similarity_fn_name = similarity
    return model.eval()


class SiameseBert(nn.Module):
    """A sentence encoder.

    Attributes:
        bert: Tokenizer and encoder.
        pooling: How a text's tokens become its vector.
        normalize: Whether vectors are brought to length 1.
        similarity_fn_name: How `similarity` compares.
        prompts: Texts to put before an input, by name.
        default_prompt_name: The one used where none is named.
        decision: From which cosine on a pair matches, and how likely each cosine makes it; None
            where that was not fitted. It holds for the weights and settings that it was fitted to.
        score_scale: Lowest and highest gold score of what it was trained on, (-1, 1) where unknown.
    """

    decision: Decision | None
    compile = compile_encoder  # type: ignore[assignment]

    def __init__(
        self, bert: ConnectionBert, pooling: PoolingMode | None = None, max_seq_length: int | None = None
    ) -> None:
        """Put pooling on an encoder.

        Args:
            bert: Tokenizer and encoder; what its folder says of pooling and length counts.
            pooling: ``mean``, ``cls`` or ``max``, in place of the folder's.
            max_seq_length: Tokens a text may have, special ones included, in place of the folder's.

        Raises:
            InputError: A length that the encoder has no positions for, or an unknown pooling.
            ModelFolderError: The folder's sbert_ft.json is damaged.
        """
        super().__init__()
        self.bert = bert
        source = instance_argument(ConnectionBert, bert, "bert", "ConnectionBert.from_pretrained(folder)").source
        self.pooling: PoolingMode = source.pooling if pooling is None else pooling
        self.normalize = source.normalize
        self.similarity_fn_name = source.similarity
        self.prompts = dict(source.prompts)
        self.default_prompt_name = source.default_prompt_name
        self._max_seq_length = min(source.max_seq_length or bert.max_tokens, bert.max_tokens)
        if max_seq_length is not None:
            self.max_seq_length = max_seq_length
        EmbedSettings(self.pooling, self.max_seq_length)  # refuses an unknown pooling
        own = OwnSettings.of(source)
        # another pooling gives other cosines, and a classifier's decision is none about them
        cosine_kept = self.pooling == source.pooling and own.classifier is None
        self.decision = own.decision if cosine_kept else None
        self.score_scale = own.score_scale if own.classifier is None else COSINE_SCALE
        warn_of_classifier(source)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str | torch.device | None = None,
        precision: Precision = "auto",
        max_seq_length: int | None = None,
    ) -> SiameseBert:
        """Return the model of a local folder; arguments and errors as in `ConnectionBert.from_pretrained`."""
        return cls(ConnectionBert.from_pretrained(folder, device, precision), max_seq_length=max_seq_length)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.bert.device

    @property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer: batched, in Rust."""
        return self.bert.tokenizer

    @property
    def max_seq_length(self) -> int:
        """Tokens a text may have, special ones included; longer ones are treated by ``on_truncate``."""
        return self._max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        least, most = self.bert.tokenizer.n_special + 1, self.bert.max_tokens
        self._max_seq_length = whole_number(value, "max_seq_length", least, most)

    def get_embedding_dimension(self) -> int:
        """Return the width of a vector, d."""
        return self.bert.hidden_size

    def forward(self, batch: PackedBatch) -> Tensor:
        """Return the vectors of a packed batch, shape (N, d), float32, with gradients as torch is set.

        Args:
            batch: Of ``bert.pack``, on the model's device.
        """
        batch = instance_argument(PackedBatch, batch, "batch")
        vectors = batch.pool(self.bert(batch), self.pooling)
        return F.normalize(vectors, dim=-1) if self.normalize else vectors

    def encode_stream(
        self,
        inputs: Iterable[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        on_truncate: OnTruncate = "warn",
        count: EmbedCount | None = None,
        device: str | torch.device | None = None,
    ) -> Iterator[Tensor]:
        """Yield the vectors of any iterable, some thousand texts at a time, with bounded memory.

        Arguments and errors as in `encode`; `count` is filled with what was met on the way.

        Args:
            device: Where they are yielded, such as ``cpu``; None for the model's device.

        Yields:
            Shape (texts of the window, d), float32.
        """
        width = chosen_width(truncate_dim, self.get_embedding_dimension())
        prompt = chosen_prompt(self.prompts, self.default_prompt_name, prompt_name, prompt)
        target = None if device is None else choose_device(device)
        settings = EmbedSettings(
            self.pooling, self.max_seq_length, batch_size, on_truncate, prompt, check_finite=True, device=target
        )
        count = EmbedCount() if count is None else instance_argument(EmbedCount, count, "count")
        for vectors in embed(self.bert, ordered_texts(inputs), settings, count):
            if self.normalize:
                vectors = unit(vectors)
            vectors = vectors[:, :width]
            if normalize_embeddings:
                vectors = unit(vectors)
            yield vectors
            del vectors  # before the next window is computed
        warn_of_cuts(count, settings)

    # fmt: off
    @overload
    def encode(
        self, inputs: str | Iterable[str], prompt_name: str | None = ..., prompt: str | None = ...,
        batch_size: int = ..., show_progress_bar: bool | None = ..., *, convert_to_numpy: Literal[True] = ...,
        convert_to_tensor: Literal[False] = ..., normalize_embeddings: bool = ..., truncate_dim: int | None = ...,
        on_truncate: OnTruncate = ...,
    ) -> NDArray[np.float32]: ...
    @overload
    def encode(
        self, inputs: str | Iterable[str], prompt_name: str | None = ..., prompt: str | None = ...,
        batch_size: int = ..., show_progress_bar: bool | None = ..., *, convert_to_numpy: bool = ...,
        convert_to_tensor: Literal[True], normalize_embeddings: bool = ..., truncate_dim: int | None = ...,
        on_truncate: OnTruncate = ...,
    ) -> Tensor: ...
    @overload
    def encode(
        self, inputs: str | Iterable[str], prompt_name: str | None = ..., prompt: str | None = ...,
        batch_size: int = ..., show_progress_bar: bool | None = ..., *, convert_to_numpy: Literal[False],
        convert_to_tensor: bool = ..., normalize_embeddings: bool = ..., truncate_dim: int | None = ...,
        on_truncate: OnTruncate = ...,
    ) -> Tensor | list[Tensor]: ...
    # fmt: on

    def encode(
        self,
        inputs: str | Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        on_truncate: OnTruncate = "warn",
    ) -> NDArray[np.float32] | Tensor | list[Tensor]:
        """Return the vectors of texts.

        Args:
            inputs: A text, or a list, array, Series or generator of texts.
            prompt_name: Puts this one of `prompts` before every text.
            prompt: Put before every text, in place of a named one.
            batch_size: Bounds memory as in a padded batch: a forward holds at most the tokens of
                so many texts of full length. How they are batched does not change a vector.
            show_progress_bar: None for a bar where logging is at INFO or DEBUG.
            convert_to_numpy: Return an array; otherwise a list of tensors.
            convert_to_tensor: Return one tensor on the model's device.
            normalize_embeddings: Bring vectors to length 1.
            truncate_dim: Keep so many features of each vector.
            on_truncate: What to do with texts longer than `max_seq_length`: cut them and ``warn``
                with their number, raise an ``error``, cut and ``ignore``, or ``chunk``: the mean
                over windows that overlap by a quarter.

        Returns:
            Shape (d,) for a text, (n, d) for others, (0, d) for an empty list; float32.

        Raises:
            InputError: A text is no string, None or NaN, or its vector is not finite (with its position), or a wrong
                argument.
            ResourceError: One text alone does not fit into memory.
        """
        texts = [inputs] if isinstance(inputs, str) else ordered_texts(inputs)
        n_texts = len(texts) if isinstance(texts, Sequence) else None
        width = chosen_width(truncate_dim, self.get_embedding_dimension())
        stream = self.encode_stream(
            texts,
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            on_truncate=on_truncate,
            device="cpu" if convert_to_numpy and not convert_to_tensor else None,
        )
        form = ResultForm(isinstance(inputs, str), convert_to_numpy, convert_to_tensor)
        return form.gathered(stream, torch.zeros(0, width, device=self.device), n_texts, show_progress_bar)

    def similarity(self, embeddings1: Vectors, embeddings2: Vectors) -> Tensor:
        """Return how alike all vectors of one set are to all of the other: shape (n, m), float32."""
        return compare(embeddings1, embeddings2, self.similarity_fn_name, pairwise=False)

    def similarity_pairwise(self, embeddings1: Vectors, embeddings2: Vectors) -> Tensor:
        """Return how alike the vectors of two sets are row by row: shape (n,), float32."""
        return compare(embeddings1, embeddings2, self.similarity_fn_name, pairwise=True)

    def score(self, pairs: Pairs, batch_size: int = 32, *, on_truncate: OnTruncate = "warn") -> NDArray[np.float32]:
        """Return the cosine of each pair: shape (n,), float32, within [-1, 1].

        Args:
            pairs: Pairs of texts; any iterable.
            batch_size: See `encode`.
            on_truncate: See `encode`.

        Raises:
            InputError: Something is no pair of strings; with its position.
        """
        parts = list(self.score_stream(pairs, batch_size, on_truncate=on_truncate))
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def score_stream(
        self, pairs: Pairs, batch_size: int = 32, *, on_truncate: OnTruncate = "warn", count: EmbedCount | None = None
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the cosines of any iterable of pairs, some thousand at a time, with bounded memory.

        A text that stands several times among them is computed once.
        """
        count = EmbedCount() if count is None else instance_argument(EmbedCount, count, "count")
        prompt = chosen_prompt(self.prompts, self.default_prompt_name, None, None)
        settings = EmbedSettings(self.pooling, self.max_seq_length, batch_size, on_truncate, prompt)
        for left, right in embed_pairs(self.bert, pairs, settings, count):
            yield cosine(left, right).cpu().numpy()
        warn_of_cuts(count, settings)

    def match(
        self, pairs: Pairs, batch_size: int = 32, *, threshold: float | None = None, on_truncate: OnTruncate = "warn"
    ) -> NDArray[np.bool_]:
        """Return whether each pair belongs together: shape (n,), bool.

        Args:
            pairs: Pairs of texts; any iterable.
            batch_size: See `encode`.
            threshold: The cosine from which on pairs match, in place of the stored one.
            on_truncate: See `encode`.

        Raises:
            InputError: There is neither a stored threshold nor a given one, or as in `score`.
        """
        threshold = chosen_threshold(self.decision, threshold)
        return reaches(self.score(pairs, batch_size, on_truncate=on_truncate), threshold)

    def predict_proba(
        self, pairs: Pairs, batch_size: int = 32, *, on_truncate: OnTruncate = "warn"
    ) -> NDArray[np.float32]:
        """Return the probability that each pair belongs together, by the stored calibration: shape (n,).

        Raises:
            InputError: There is no calibration, or as in `score`.
        """
        calibration = stored_calibration(self.decision)
        return calibration.probability(self.score(pairs, batch_size, on_truncate=on_truncate))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that sentence-transformers 2 to 6, transformers and embedding servers load.

        Raises:
            OutputError: The folder cannot be written.
        """
        settings = SiameseSettings(
            pooling=self.pooling,
            normalize=self.normalize,
            max_seq_length=self.max_seq_length,
            similarity=self.similarity_fn_name,
            prompts=self.prompts,
            default_prompt_name=self.default_prompt_name,
            own=OwnSettings(self.decision, self.score_scale, OwnSettings.of(self.bert.source).others),
        )
        parts = EncoderParts(self.bert.encoder, self.bert.pooler, self.bert.tokenizer)
        save_siamese(parts, settings, path_argument(folder, "folder"))

    def as_sentence_transformer(self) -> SentenceTransformer:
        """Return the model as a `SentenceTransformer` with this encoder, made of a folder that is written for it."""
        return around_encoder(self.bert.encoder, self.save_pretrained, self.device, self.similarity_fn_name)
