"""`SentenceEncoder`: vectors of texts, and scores of pairs, whichever engine runs the encoder.

`siamese.py` has the model that torch runs, and `exported.py` the one that another engine runs. Names, defaults and
types are those of sentence-transformers. torch is imported where a tensor is asked for, and only there.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NoReturn, overload

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from sbert_ft.arguments import instance_argument, whole_number, word_argument
from sbert_ft.encoder.batching import PoolingMode
from sbert_ft.errors import InputError, quoted
from sbert_ft.model_folder.decision import Decision, chosen_threshold, reaches, stored_calibration
from sbert_ft.model_folder.digest import model_digest
from sbert_ft.model_folder.metadata import COSINE_SCALE, OwnSettings
from sbert_ft.models.inference import (
    EmbedCount,
    EmbedSettings,
    OnTruncate,
    embed,
    ordered_texts,
    paired_texts,
    windows_of_pairs,
    windows_of_texts,
)
from sbert_ft.models.text_encoder import SequenceModel

if TYPE_CHECKING:
    from torch import Tensor

    from sbert_ft.models.similarity import Vectors

logger = logging.getLogger(__name__)

Pairs = Iterable[tuple[str, str]]
OUTPUT_VALUES = ("sentence_embedding", "token_embeddings")
_ONE_PROCESS = "encode runs in one process, which uses all cores of a CPU"
_FOR_SEVERAL = "for several GPUs start a process for each, with a model of its own"


class SentenceEncoder(SequenceModel, ABC):
    """A sentence encoder: vectors of texts, similarities of vectors, and scores of pairs.

    Attributes:
        bert: Tokenizer and encoder.
        pooling: How a text's tokens become its vector.
        normalize: Whether vectors are scaled to length 1.
        similarity_fn_name: How `similarity` compares vectors.
        prompts: Texts to put before an input, by name.
        default_prompt_name: Name of the prompt that is used if none is given.
        pair_prompts: Names of the prompts put before the first and the second texts of pairs; None for the default
            prompt before both.
        decision: The cosine threshold from which on a pair matches, and the calibration from cosine to probability;
            None if it was not fitted. It is valid for the weights and settings that it was fitted to.
        score_scale: Lowest and highest gold score of the training data; (-1, 1) if unknown.
        truncate_dim: How many first features of a vector are kept, for vectors and scores; None for all.
    """

    def _read_settings(self, pooling: PoolingMode | None, truncate_dim: int | None = None) -> None:
        """Take the settings of the folder, with another pooling and width where they are given."""
        source = self.bert.source
        self.pooling: PoolingMode = source.pooling if pooling is None else pooling
        EmbedSettings(self.pooling, self.max_seq_length)  # raises an error for an unknown pooling
        self.normalize = source.normalize
        self.similarity_fn_name = source.similarity
        self.prompts = dict(source.prompts)
        self.default_prompt_name = source.default_prompt_name
        own = OwnSettings.of(source)
        # another pooling or width gives other cosines, and a classifier's decision is not about cosines
        self.pair_prompts = own.pair_prompts
        self.truncate_dim = source.truncate_dim if truncate_dim is None else self._width(truncate_dim)
        same_width = self.truncate_dim == source.truncate_dim
        cosine_kept = self.pooling == source.pooling and same_width and own.classifier is None
        self.decision: Decision | None = own.decision if cosine_kept else None
        self.score_scale = own.score_scale if own.classifier is None else COSINE_SCALE

    def get_embedding_dimension(self) -> int:
        """Return the width of a vector, d: that of the encoder, or `truncate_dim` where that is less."""
        return min(self.bert.hidden_size, self.truncate_dim or self.bert.hidden_size)

    @abstractmethod
    def _device_of(self, device: Any) -> Any:
        """Return the device of the vectors to yield, checked; None for where they are computed."""

    @abstractmethod
    def _compute_on(self, device: Any) -> None:
        """Compute on another device from now on; an `InputError` or `ResourceError` where that cannot be."""

    @abstractmethod
    def _of_tokens(
        self, texts: Iterable[str], settings: EmbedSettings, key: str | None, width: int, unit_length: bool
    ) -> Iterator[Any]:
        """Yield for each text what `encode` returns for it with another `output_value`, `key`."""

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
        device: Any = None,
    ) -> Iterator[Any]:
        """Yield the vectors of any iterable of texts, some thousand at a time, with bounded memory.

        Other arguments, and errors, as in `encode`.

        Args:
            count: Filled with counts of the texts and tokens while the texts are read.
            device: The device of the yielded vectors, such as ``cpu``; None for the model's device.

        Yields:
            Shape (texts of the window, d), float32: tensors, or arrays where another engine than torch computes.
        """
        width = self._width(truncate_dim)
        settings = EmbedSettings(
            self.pooling,
            self.max_seq_length,
            batch_size,
            on_truncate,
            self.prompt_text(prompt_name, prompt),
            self.bert.source.include_prompt,
            device=self._device_of(device),
        )
        for (vectors,) in embed(self.bert, windows_of_texts(inputs), settings, count):
            if self.normalize:
                vectors = self.bert.operations.unit(vectors)
            vectors = vectors[:, :width]
            if normalize_embeddings:
                vectors = self.bert.operations.unit(vectors)
            yield vectors
            del vectors  # before the next window is computed

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
        inputs: str | Iterable[str] | None = None,
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
        output_value: Literal["sentence_embedding", "token_embeddings"] | None = "sentence_embedding",
        **others: Any,
    ) -> Any:
        """Return the vectors of texts.

        Arguments that sentence-transformers has besides are taken too: `sentences` is `inputs`, `device` moves the
        model, `precision` (int8, uint8, binary, ubinary) quantizes the array as its `quantize_embeddings` does.

        Args:
            inputs: A text, or a list, array, Series or generator of texts.
            prompt_name: Name of the prompt in `prompts` that is put before every text.
            prompt: A text that is put before every text, in place of a named prompt.
            batch_size: Bounds memory as in a padded batch: a forward has at most as many tokens as this number of
                texts of full length. How texts are batched does not change a vector.
            show_progress_bar: Whether to show a bar; None for a bar if logging is at INFO or DEBUG.
            convert_to_numpy: Return an array; otherwise a list of tensors.
            convert_to_tensor: Return one tensor on the model's device.
            normalize_embeddings: Scale vectors to length 1.
            truncate_dim: Number of features of each vector to keep; None for the model's own `truncate_dim`.
            on_truncate: What to do with texts longer than `max_seq_length`: ``warn`` cuts them and logs how many,
                ``error`` raises an error, ``ignore`` only cuts them, ``chunk`` takes the mean over windows that
                overlap by a quarter.
            output_value: ``token_embeddings`` for the vectors of each text's tokens, special ones included, in place
                of the text's vector; None for a dict of all that is computed (see `token_features`).

        Returns:
            Shape (d,) for one text, (n, d) for several, (0, d) for an empty list; float32. For tokens: a tensor of
            shape (tokens, D) for one text, a list of them for several; float32, on the CPU. For None: a dict, or a
            list of them.

        Raises:
            InputError: A text is not a string (such as None or NaN) or its vector is not finite, with its position;
                or an argument is not valid.
            ResourceError: A single text does not fit into memory.
        """
        inputs, quantized = self._other_arguments(inputs, others)
        texts = [inputs] if isinstance(inputs, str) else ordered_texts(inputs)
        if output_value != "sentence_embedding":
            if quantized is not None:
                raise InputError("vectors of tokens are not quantized", "leave precision out")
            key = None if output_value is None else word_argument(output_value, "output_value", OUTPUT_VALUES)
            settings = EmbedSettings(
                self.pooling,
                self.max_seq_length,
                batch_size,
                on_truncate,
                self.prompt_text(prompt_name, prompt),
                self.bert.source.include_prompt,
            )
            width = self._width(truncate_dim)
            of_texts = list(self._of_tokens(texts, settings, key, width, normalize_embeddings))
            return of_texts[0] if isinstance(inputs, str) else of_texts
        # the number of texts is known before, so that no vector is in memory twice
        texts = texts if isinstance(texts, Sequence) else list(texts)
        to_host = convert_to_numpy and not convert_to_tensor
        stream = self.encode_stream(
            texts,
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            on_truncate=on_truncate,
            device="cpu" if to_host else None,
        )
        if show_progress_bar is None:
            show_progress_bar = logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
        whole = self.bert.operations.empty(len(texts), self._width(truncate_dim), to_host)
        n_done = 0
        with tqdm(total=len(texts), unit="text", disable=not show_progress_bar) as bar:
            for part in stream:
                bar.update(len(part))
                whole[n_done : n_done + len(part)] = part
                n_done += len(part)
                del part  # before the next one is computed
        if quantized is not None:
            from sentence_transformers.util.quantization import quantize_embeddings

            values = quantize_embeddings(self.bert.operations.to_numpy(whole), quantized)
            return values[0] if isinstance(inputs, str) else values
        result = whole[0] if isinstance(inputs, str) else whole
        if to_host:
            return self.bert.operations.to_numpy(result)
        tensor = self.bert.operations.to_tensor(result)
        return tensor if convert_to_tensor or isinstance(inputs, str) else list(tensor)

    def encode_query(self, inputs: str | Iterable[str] | None = None, **options: Any) -> Any:
        """Return what `encode` returns with the model's prompt for queries, if it has one; arguments as in `encode`."""
        return self._encode_with_prompt(inputs, self.query_prompt_name, options)

    def encode_document(self, inputs: str | Iterable[str] | None = None, **options: Any) -> Any:
        """Return what `encode` returns with the model's prompt for documents, if it has one."""
        return self._encode_with_prompt(inputs, self.document_prompt_name, options)

    @property
    def query_prompt_name(self) -> str | None:
        """The name of the model's prompt for queries, which `encode_query` uses; None if it has none."""
        return "query" if "query" in self.prompts else None

    @property
    def document_prompt_name(self) -> str | None:
        """The name of the model's prompt for documents, which `encode_document` uses; None if it has none."""
        return next((name for name in ("document", "passage", "corpus") if name in self.prompts), None)

    def _encode_with_prompt(self, inputs: Any, name: str | None, options: dict[str, Any]) -> Any:
        if options.get("prompt") is None and options.get("prompt_name") is None:
            options["prompt_name"] = name
        return self.encode(inputs, **options)

    def _other_arguments(self, inputs: Any, others: dict[str, Any]) -> tuple[Any, Any]:
        """Return the inputs and the type to quantize to, from what only sentence-transformers' `encode` takes.

        Raises:
            InputError: An argument is not known, or its value cannot be used.
        """
        if "sentences" in others:
            if inputs is not None:
                raise InputError("inputs and sentences are both given", "keep inputs")
            inputs = others.pop("sentences")
        if (device := others.pop("device", None)) is not None:
            if isinstance(device, list):
                raise InputError(f"device is a list, but {_ONE_PROCESS}", _FOR_SEVERAL)
            self._compute_on(device)
        quantized = others.pop("precision", None)
        quantized = "float32" if quantized is None else quantized
        word_argument(quantized, "precision", ("float32", "int8", "uint8", "binary", "ubinary"))
        for name in ("pool", "chunk_size"):
            if others.pop(name, None) is not None:
                raise InputError(f"{name} is given, but {_ONE_PROCESS}", _FOR_SEVERAL)
        if others:
            raise InputError(f"encode has no argument {quoted(next(iter(others)))}")
        return inputs, None if quantized == "float32" else quantized

    def get_sentence_embedding_dimension(self) -> int:
        """Return what `get_embedding_dimension` returns, under its older name in sentence-transformers."""
        return self.get_embedding_dimension()

    def get_max_seq_length(self) -> int:
        """Return `max_seq_length`, under its name as a method in sentence-transformers."""
        return self.max_seq_length

    def start_multi_process_pool(self, target_devices: Sequence[str] | None = None) -> NoReturn:
        """Raise an `InputError` that says what to call instead of a pool of processes."""
        raise InputError(f"there is no pool of processes: {_ONE_PROCESS}", _FOR_SEVERAL)

    def encode_multi_process(self, *args: Any, **options: Any) -> NoReturn:
        """Raise an `InputError` that says what to call instead of a pool of processes."""
        self.start_multi_process_pool()

    def digest(self) -> str:
        """Return the SHA-256 of what decides a text's vector, with the pooling and prompts that the model has now.

        It is the same for any engine and precision. The weights are read once for it. Errors as in `model_digest`.
        """
        source = replace(
            self.bert.source,
            pooling=self.pooling,
            prompts=self.prompts,
            default_prompt_name=self.default_prompt_name,
            truncate_dim=self.truncate_dim,
        )
        return model_digest(source, self._stated_weights())

    def _stated_weights(self) -> str | None:
        """Return the digest of the weights where the folder may have none; None where it has them."""
        return None

    @property
    def default_prompt(self) -> str:
        """The text put before every text where no prompt is given; empty for none."""
        return self.prompt_text()

    @property
    def prompts_of_pair(self) -> tuple[str, str]:
        """The texts put before the first and the second text of each pair."""
        first, second = self.pair_prompts or (None, None)
        return self.prompt_text(first), self.prompt_text(second)

    def use_prompts(self, first: str, second: str) -> None:
        """Put these texts before the first and the second texts of pairs, and save them so.

        They become the prompts ``query`` and ``document``, which `encode_query` and `encode_document` use here and in
        sentence-transformers. If they are equal they are the default prompt, otherwise there is none.
        """
        self.prompts = {**self.prompts, "query": first, "document": second}
        self.default_prompt_name = "query" if first == second else None
        self.pair_prompts = None if first == second else ("query", "document")

    def prompt_text(self, name: str | None = None, prompt: str | None = None) -> str:
        """Return the text to put before each input: `prompt`, or the one of this name, or the default one.

        An `InputError` for a name that the model does not know.
        """
        if prompt is not None:
            return instance_argument(str, prompt, "prompt")
        name = self.default_prompt_name if name is None else name
        if name is None:
            return ""
        if not isinstance(name, str) or name not in self.prompts:
            known = ", ".join(quoted(known)[1:-1] for known in self.prompts) or "none"
            raise InputError(f"prompt_name is {quoted(name)}, but the model's prompts are: {known}")
        return self.prompts[name]

    def _width(self, truncate_dim: int | None) -> int:
        if truncate_dim is None:
            return self.get_embedding_dimension()
        return whole_number(truncate_dim, "truncate_dim", 1, self.bert.hidden_size)

    def similarity(self, embeddings1: Vectors, embeddings2: Vectors) -> Tensor:
        """Return the similarity of each vector of one set with each of the other: shape (n, m), float32."""
        from sbert_ft.models.similarity import compare

        return compare(embeddings1, embeddings2, self.similarity_fn_name, pairwise=False)

    def similarity_pairwise(self, embeddings1: Vectors, embeddings2: Vectors) -> Tensor:
        """Return the similarity of the vectors of two sets row by row: shape (n,), float32."""
        from sbert_ft.models.similarity import compare

        return compare(embeddings1, embeddings2, self.similarity_fn_name, pairwise=True)

    @overload
    def score(  # type: ignore[overload-overlap]
        self, pairs: str, second: str, batch_size: int = ..., *, on_truncate: OnTruncate = ...
    ) -> float: ...
    @overload
    def score(
        self,
        pairs: Pairs | Iterable[str],
        second: Iterable[str] | None = ...,
        batch_size: int = ...,
        *,
        on_truncate: OnTruncate = ...,
    ) -> NDArray[np.float32]: ...

    def score(
        self, pairs: Any, second: Any = None, batch_size: int = 32, *, on_truncate: OnTruncate = "warn"
    ) -> NDArray[np.float32] | float:
        """Return the cosine of each pair: shape (n,), float32, within [-1, 1]; a number for two single texts.

        Args:
            pairs: Pairs of texts, any iterable; with `second`, the first texts of the pairs, or one text.
            second: The second texts of the pairs, as many as first ones, or one text.
            batch_size: As in `encode`, as is `on_truncate`.

        Raises:
            InputError: Something is not a pair of strings; with its position.
        """
        is_one = False
        if second is not None:
            pairs, is_one = paired_texts(pairs, second)
        stream = self.score_stream(pairs, batch_size, on_truncate=on_truncate)
        scores = np.concatenate([np.zeros(0, np.float32), *stream])
        return float(scores[0]) if is_one else scores

    def score_stream(
        self,
        pairs: Pairs,
        batch_size: int = 32,
        *,
        on_truncate: OnTruncate = "warn",
        count: EmbedCount | None = None,
        check_finite: bool = True,
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the cosines of any iterable of pairs, some thousand at a time, with bounded memory.

        A text that appears several times in these some thousand pairs is computed once. `check_finite` and `count` are
        as in `ClassifierModel.logits_stream`.
        """
        settings = EmbedSettings(
            self.pooling,
            self.max_seq_length,
            batch_size,
            on_truncate,
            include_prompt=self.bert.source.include_prompt,
            check_finite=check_finite,
        )
        for left, right in embed(self.bert, windows_of_pairs(pairs, prompts=self.prompts_of_pair), settings, count):
            width = self.get_embedding_dimension()
            yield self.bert.operations.cosine(left[:, :width], right[:, :width])

    def match(
        self,
        pairs: Any,
        second: Any = None,
        batch_size: int = 32,
        *,
        threshold: float | None = None,
        on_truncate: OnTruncate = "warn",
    ) -> Any:
        """Return whether each pair belongs together: shape (n,), bool; a bool for two single texts.

        Other arguments, and errors, as in `score`; `threshold` is the lowest cosine of a match, in place of the stored
        one. Without either it is an `InputError`.
        """
        threshold = chosen_threshold(self.decision, threshold)
        scores = self.score(pairs, second, batch_size, on_truncate=on_truncate)
        found = reaches(np.atleast_1d(scores), threshold)
        return bool(found[0]) if isinstance(scores, float) else found

    def predict_proba(
        self, pairs: Any, second: Any = None, batch_size: int = 32, *, on_truncate: OnTruncate = "warn"
    ) -> Any:
        """Return the probability that each pair belongs together, from the stored calibration: shape (n,).

        A number for two single texts. Arguments and errors as in `score`; without a calibration it is an `InputError`.
        """
        calibration = stored_calibration(self.decision)
        scores = self.score(pairs, second, batch_size, on_truncate=on_truncate)
        found = calibration.probability(np.atleast_1d(scores))
        return float(found[0]) if isinstance(scores, float) else found
