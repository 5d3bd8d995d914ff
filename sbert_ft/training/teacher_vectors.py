"""A teacher that is a sentence encoder: its vectors of the training texts, from which another encoder learns.

Every text is encoded once, before the first step, with the teacher's own prompts and length (Reimers and Gurevych 2020,
section 2, where the targets do not change either), so a step costs nothing of the teacher. Its vectors stay in memory,
4 bytes a number, and the teacher itself does not.

Where the encoder is narrower than the teacher, mse learns the coordinates of the teacher's vectors along the directions
in which they are longest on average (a principal component analysis without centring). This changes their products, and
so their cosines, as little as any projection does, and nothing has to be removed afterwards. A linear layer on the
encoder, trained beside it and then dropped, would leave vectors whose cosines are not the teacher's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.encoder.devices import Precision
from sbert_ft.encoder.ranks import Ranks
from sbert_ft.errors import InputError, quoted
from sbert_ft.model_folder.classifier import has_classifier
from sbert_ft.model_folder.layout import read_folder
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.training.tokenized_dataset import number_texts

_CHUNK_VECTORS = 8192


class FittedWidth(nn.Module):
    """Vectors of a teacher in the width of the encoder that learns from it.

    Those of a narrower teacher are filled up with zeros, which keeps their cosines.

    Attributes:
        basis: Orthogonal directions as columns, shape (teacher's width, width), in checkpoints; None unless the teacher
            is wider.
    """

    basis: Tensor | None

    def __init__(self, teacher_width: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("basis", torch.zeros(teacher_width, width) if teacher_width > width else None)

    def fit(self, vectors: Tensor) -> None:
        """Choose the directions by the teacher's vectors, shape (n, teacher's width), float32, on the CPU."""
        if self.basis is None:
            return
        moments = torch.zeros(vectors.shape[1], vectors.shape[1], dtype=torch.float64)
        for part in vectors.split(_CHUNK_VECTORS):
            moments += part.double().T @ part.double()
        directions = torch.linalg.eigh(moments).eigenvectors.flip(1)[:, : self.width]  # the longest first
        largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
        self.basis.copy_(directions * largest.sign())

    def forward(self, vectors: Tensor) -> Tensor:
        """Return vectors of the teacher, shape (B, teacher's width), as targets, shape (B, width)."""
        if self.basis is not None:
            return vectors @ self.basis
        return F.pad(vectors, (0, self.width - vectors.shape[1]))


@dataclass(frozen=True)
class TeacherVectors:
    """The teacher's vectors of all texts, each with its prompt.

    Attributes:
        vectors: Shape (n, d), float32, on the CPU.
        rows: Which of them are those of a row's texts, shape (N, k).
    """

    vectors: Tensor
    rows: NDArray[np.int64]

    def of_rows(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the vectors of the texts of these rows, shape (B,), as a tensor of shape (B, k, d) on the CPU."""
        return self.vectors[torch.from_numpy(self.rows[rows])]


class VectorTeacher:
    """A sentence encoder from whose vectors another one learns.

    Attributes:
        digest: Of all that decides its vectors; see `SentenceEncoder.digest`.
        width: Numbers of a vector.
        fitted: What brings its vectors to the width of the encoder.
    """

    def __init__(self, path: str, device: torch.device, precision: Precision, width: int) -> None:
        """Load the teacher; `width` is that of the encoder that learns.

        Raises:
            ModelFolderError, ResourceError: As in `SiameseBert.from_pretrained`.
            InputError: The folder holds a classifier.
        """
        source = read_folder(path)
        if has_classifier(source):
            raise InputError(
                f"teacher.path: {quoted(path, limit=400)} holds a classifier, expected a sentence encoder, whose "
                "vectors the objective learns from",
                "give the folder of a sentence encoder",
            )
        self._model: SiameseBert | None = SiameseBert.from_pretrained(source, device, precision)
        self._prompts = self._model.prompts_of_pair
        self.digest, self.width = self._model.digest(), self._model.get_embedding_dimension()
        self.fitted = FittedWidth(self.width, width).to(device)

    def n_vectors(self, train: ConnectionDataset) -> int:
        """Return how many different texts, with the teacher's prompts, these rows have."""
        return len(np.unique(self._numbered(train)[1]))

    def encode(self, train: ConnectionDataset, ranks: Ranks) -> TeacherVectors:
        """Return the vectors of the texts of all rows, and let go of the teacher; it can be called once.

        Of several processes each encodes a share of the texts, and all return the same vectors.

        Raises:
            InputError, ResourceError: As in `SentenceEncoder.encode`.
        """
        assert self._model is not None, "the teacher has been let go of"
        model, (prompts, numbers) = self._model, self._numbered(train)
        there, rows = np.unique(numbers, return_inverse=True)
        vectors, n_done = torch.empty(len(there), self.width), 0
        with model.bert.shared_by(ranks):
            for which, prompt in enumerate(prompts):
                own = there[there // train.n_distinct == which] % train.n_distinct
                texts = (train.distinct_texts(number, number + 1)[0] for number in own.tolist())
                for part in model.encode_stream(texts, prompt=prompt, device="cpu"):
                    vectors[n_done : n_done + len(part)] = part
                    n_done += len(part)
        self._model = None
        self.fitted.fit(vectors)
        ranks.broadcast(self.fitted.state_dict().values())
        return TeacherVectors(vectors, rows.reshape(numbers.shape))

    def _numbered(self, train: ConnectionDataset) -> tuple[list[str], NDArray[np.int64]]:
        first, second = self._prompts
        return number_texts(train, (first, second, second)[: train.n_texts])
