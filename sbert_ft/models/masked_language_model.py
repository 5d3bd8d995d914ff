"""`MaskedLanguageModel`: an encoder that predicts masked tokens, and whether one segment follows another.

The heads are those of transformers' own classes, such as `BertForMaskedLM` or `BertForPreTraining`, with the encoder
taken out: what they get is the activations of the masked tokens alone. So the output, as wide as the vocabulary, is
computed for 15 % of the tokens, and no kind of encoder needs code of its own.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING, MODEL_FOR_PRETRAINING_MAPPING

from sbert_ft.arguments import path_argument, whole_number
from sbert_ft.encoder.devices import Precision
from sbert_ft.encoder.packing import PackedBatch
from sbert_ft.encoder.spec import quiet_transformers
from sbert_ft.errors import InputError, ModelFolderError, quoted, shown
from sbert_ft.model_folder.layout import ModelFolder, read_folder
from sbert_ft.model_folder.metadata import OwnSettings
from sbert_ft.model_folder.tensor_names import dims, match_names
from sbert_ft.model_folder.weights import find_weights, read_tensors
from sbert_ft.model_folder.writer import EncoderParts, save_language_model
from sbert_ft.models.connection_bert import ConnectionBert, TextModel

logger = logging.getLogger(__name__)

_LOGITS_AT_ONCE = {"cpu": 2**24, "cuda": 2**28}
"""Numbers of a part of the output, tokens times vocabulary; some parts after another take the memory of one."""


class GivenActivations(nn.Module):
    """Stands in a stock model where its encoder was, and returns the activations that it is given."""

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> BaseModelOutputWithPooling:
        """Return the activations, shape (1, M, D), as the output of an encoder."""
        return BaseModelOutputWithPooling(last_hidden_state=inputs_embeds)


class LanguageHead(nn.Module):
    """The stock heads of an encoder's kind, whose output table is the encoder's word table where the kind ties them.

    Attributes:
        stock: transformers' model without its encoder.
        pooler: The stock pooler, which next-sentence prediction reads; None without it.
        tied: Names of the parameters that are the encoder's.
    """

    def __init__(self, encoder: PreTrainedModel, *, next_sentence: bool, seed: int) -> None:
        """Build the heads with random weights from `seed`.

        Raises:
            InputError: transformers has no such head for this kind of encoder.
        """
        super().__init__()
        config = encoder.config
        kind = config.model_type
        if next_sentence and kind != "bert":
            raise InputError(
                f"next-sentence prediction is for bert encoders, as in BertForPreTraining; this one is {kind}",
                "leave the objective nsp out",
            )
        mapping = MODEL_FOR_PRETRAINING_MAPPING if next_sentence else MODEL_FOR_MASKED_LM_MAPPING
        stock_class: Any = mapping[type(config)]
        small = copy.deepcopy(config)
        small.num_hidden_layers = 1  # its encoder is taken out again
        with torch.random.fork_rng(devices=[]), quiet_transformers():
            torch.manual_seed(seed)
            stock: PreTrainedModel = stock_class(small).float()
        self.pooler: nn.Module | None = getattr(stock, stock.base_model_prefix).pooler if next_sentence else None
        setattr(stock, stock.base_model_prefix, GivenActivations())
        self.stock: Any = stock
        words, output = encoder.get_input_embeddings(), stock.get_output_embeddings()
        assert isinstance(words, nn.Embedding) and isinstance(output, nn.Linear)
        if getattr(config, "tie_word_embeddings", True) and output.weight.shape == words.weight.shape:
            output.weight = words.weight
        own = {id(parameter) for parameter in encoder.parameters()}
        of_head = self.named_parameters(remove_duplicate=False)
        self.tied = frozenset(name for name, parameter in of_head if id(parameter) in own)
        self.eval()

    def word_logits(self, activations: Tensor) -> Tensor:
        """Return the logits of the vocabulary, shape (M, V), for the activations of M tokens, shape (M, D)."""
        if self.pooler is not None:  # BertForPreTraining has both heads in one module
            logits: Tensor = self.stock.cls.predictions(activations)
            return logits
        found: Tensor = self.stock(inputs_embeds=activations[None]).logits[0]
        return found

    def order_logits(self, first: Tensor) -> Tensor:
        """Return the logits of follows and does not follow, shape (N, 2), for N first tokens, shape (N, D)."""
        assert self.pooler is not None
        logits: Tensor = self.stock.cls.seq_relationship(self.pooler(first[:, None]))
        return logits

    def own_tensors(self) -> dict[str, Tensor]:
        """Return the heads' tensors by their names in a stock file, without the pooler and what is the encoder's."""
        named = {name: tensor for name, tensor in self.named_parameters() if name not in self.tied}
        prefix = "stock."
        return {name.removeprefix(prefix): tensor for name, tensor in named.items() if name.startswith(prefix)}


class TrainedParts(nn.Module):
    """What a run trains and a checkpoint holds: the encoder, and the head's own parameters."""

    def __init__(self, encoder: PreTrainedModel, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        of_encoder = {id(parameter) for parameter in encoder.parameters()}
        self.head = nn.Module()
        for name, parameter in head.named_parameters():
            if id(parameter) not in of_encoder:
                self.head.register_parameter(name.replace(".", "/"), parameter)


class MaskedLanguageModel(TextModel):
    """An encoder with the heads of pre-training (Devlin et al. 2019, BERT, section 3.1).

    Attributes:
        bert: Tokenizer and encoder.
        head: The stock heads.
        next_sentence: Whether it also predicts if one segment follows another.
    """

    def __init__(
        self, bert: ConnectionBert, *, next_sentence: bool = False, max_seq_length: int | None = None, seed: int = 42
    ) -> None:
        """Put heads on an encoder, with random weights from `seed`; a pooler that it has is kept.

        Raises:
            InputError: The kind of encoder or the vocabulary does not fit, or a length without positions.
        """
        super().__init__(bert, max_seq_length, joins_pairs=next_sentence)
        if bert.tokenizer.mask_id is None:
            raise InputError(
                f"the vocabulary of {shown(bert.source.path)} has no mask token, [MASK] or <mask>",
                "add a line [MASK] to vocab.txt, or train a vocabulary with sbert-ft vocab",
            )
        self.next_sentence = next_sentence
        self.head = LanguageHead(
            bert.encoder, next_sentence=next_sentence, seed=whole_number(seed, "seed", 0, 2**32 - 1)
        )
        self.head.to(self.device)
        if self.head.pooler is not None:
            pooler = _named_pooler(self.head.pooler)
            if {name: t.shape for name, t in bert.pooler.items()} == {name: t.shape for name, t in pooler.items()}:
                for name, tensor in pooler.items():
                    tensor.copy_(bert.pooler[name])
            bert.pooler = pooler  # the same tensors, which are trained

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path | ModelFolder,
        device: str | torch.device | None = None,
        precision: Precision = "auto",
        max_seq_length: int | None = None,
        *,
        next_sentence: bool = False,
        seed: int = 42,
    ) -> MaskedLanguageModel:
        """Return the model of a folder; a head that the folder does not have starts with random weights, and is logged.

        Other arguments and errors as in `ConnectionBert.from_pretrained` and in `__init__`; a head that is there twice,
        or of another shape, is a `ModelFolderError`.
        """
        source = read_folder(folder)
        bert = ConnectionBert.from_pretrained(source, device, precision)
        model = cls(bert, next_sentence=next_sentence, max_seq_length=max_seq_length, seed=seed)
        model._read_heads(source)
        return model

    @classmethod
    def from_config(
        cls,
        folder: str | Path,
        device: str | torch.device | None = None,
        precision: Precision = "auto",
        max_seq_length: int | None = None,
        *,
        next_sentence: bool = False,
        seed: int = 42,
    ) -> MaskedLanguageModel:
        """Return a model with random weights; arguments and errors as in `ConnectionBert.from_config`."""
        bert = ConnectionBert.from_config(folder, device, precision, seed)
        return cls(bert, next_sentence=next_sentence, max_seq_length=max_seq_length, seed=seed)

    @property
    def trained(self) -> TrainedParts:
        """What is trained and saved in checkpoints."""
        return TrainedParts(self.bert.encoder, self.head)

    def forward(self, batch: PackedBatch) -> Tensor:
        """Return the activation of every token, as `ConnectionBert.forward`."""
        hidden: Tensor = self.bert(batch)
        return hidden

    def places_at_once(self) -> int:
        """Return for how many tokens the output as wide as the vocabulary is computed at once."""
        return max(1, _LOGITS_AT_ONCE.get(self.device.type, 2**26) // int(self.bert.plan.config.vocab_size))

    def fill_mask(self, text: str, top_k: int = 5) -> list[dict[str, Any]]:
        """Return the most probable tokens for the one mask token of a text, as the fill-mask pipeline of transformers.

        Args:
            text: Has the mask token once, such as "I like [MASK]."
            top_k: How many tokens.

        Returns:
            For each token, the most probable first, ``score`` (its probability), ``token`` and ``token_str``.

        Raises:
            InputError: The text does not have the mask token exactly once, or it is beyond `max_seq_length`.
        """
        mask_id = self.tokenizer.mask_id
        assert mask_id is not None
        tokens = self.tokenizer.frame(self.tokenizer.tokenize([text]), self.max_seq_length)
        places = np.flatnonzero(tokens.token_ids == mask_id)
        mask = self.tokenizer.backend.id_to_token(mask_id)
        if len(places) != 1:
            found = f"{len(places)} mask tokens {mask} within {self.max_seq_length} tokens"
            raise InputError(f"{quoted(text)} has {found}, expected one", f"write {mask} where a word is to be found")
        most = whole_number(top_k, "top_k", 1, int(self.bert.plan.config.vocab_size))
        batch = self.bert.pack(tokens)
        with torch.inference_mode():
            hidden = self.bert.infer(batch).flatten(0, 1)[batch.cells[places]]
            probabilities = self.head.eval().word_logits(hidden.float())[0].softmax(-1).topk(most)
        scores, numbers = probabilities.values.tolist(), probabilities.indices.tolist()
        return [
            {"score": score, "token": number, "token_str": self.tokenizer.decode([number])}
            for score, number in zip(scores, numbers, strict=True)
        ]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that `BertForMaskedLM` or `BertForPreTraining`, the fill-mask pipeline and this library load.

        If the model's folder was one of sentence-transformers, so is the new one; a stored decision is of other weights
        and is left out.

        Raises:
            OutputError: The folder cannot be written.
        """
        source = replace(self.bert.source, max_seq_length=self.max_seq_length)
        own = replace(OwnSettings.of(self.bert.source), decision=None, classifier=None)
        pooler = self.bert.pooler if self.head.pooler is None else _named_pooler(self.head.pooler)
        parts = EncoderParts(self.bert.encoder, pooler, self.tokenizer, source, own)
        heads, architecture = self.head.own_tensors(), type(self.head.stock).__name__
        save_language_model(parts, architecture, heads, path_argument(folder, "folder"))

    def _read_heads(self, source: ModelFolder) -> None:
        """Read the weights of the heads from the folder; warn of those that are not there and stay random."""
        weights, wanted = find_weights(source.encoder_path), self.head.own_tensors()
        if self.head.pooler is not None:
            wanted |= _named_pooler(self.head.pooler)
        shapes = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
        match = match_names(weights.tensors, shapes, self.bert.plan.base_prefix)
        problem = ""
        if match.wrong_shape:
            name, expected, found = match.wrong_shape[0]
            problem = f"the head's tensor {quoted(name)} is {dims(found)}, expected {dims(expected)}"
        elif twice := [found for found in match.ambiguous if found[0] in wanted]:
            name, first, second = twice[0]
            problem = f"{quoted(first)} and {quoted(second)} both claim to be {quoted(name)}"
        if problem:
            raise ModelFolderError(f"{shown(source.encoder_path)}: {problem}", "use weights of one model")
        with torch.no_grad():
            for name, tensor in read_tensors(weights, match.names).items():
                wanted[name].copy_(tensor)
        if missing := match.missing:
            logger.warning(
                "%s: tensors of the heads that are not there and start with random numbers: %d, such as %s",
                *(shown(source.encoder_path), len(missing), quoted(missing[0])),
            )


def _named_pooler(pooler: nn.Module) -> dict[str, Tensor]:
    return {f"pooler.{name}": tensor for name, tensor in pooler.state_dict().items()}
