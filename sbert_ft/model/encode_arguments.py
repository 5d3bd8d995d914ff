"""What arguments of `SiameseBert.encode` mean, in sentence-transformers' names: prompts, widths, forms of results."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from sbert_ft.arguments import instance_argument, whole_number
from sbert_ft.errors import InputError, quoted

logger = logging.getLogger(__name__)


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
