"""TSDAE: give back a text from one vector, that of the same text with most of its words deleted.

Wang, Reimers and Gurevych 2021, "TSDAE: Using Transformer-based Sequential Denoising Auto-Encoder". The decoder is the
encoder once more, with the same weights, a causal mask and cross-attention on that vector; its cross-attention and its
head are trained beside the encoder and not saved with the model. sentence-transformers' `DenoisingAutoEncoderLoss`
builds it and computes the loss. Words are deleted from the tokens, so no text is tokenised again. The cost: a decoder
reads whole texts and has one output for each token of the vocabulary, so a step takes several times that of `simcse`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from sbert_ft.encoder.dropout import use_fast_dropout
from sbert_ft.encoder.kinds import KINDS
from sbert_ft.encoder.spec import quiet_transformers
from sbert_ft.errors import InputError, ModelFolderError
from sbert_ft.model_folder.weights import find_weights, read_tensors
from sbert_ft.models.inference import prompt_tokens
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.tokenization.text_tokens import TextTokens, offsets_of

_DAMAGE = 0x7DAE  # keeps these random numbers apart from those of the order of rows


class TextDecoder:
    """A decoder on the weights of a sentence encoder, and the damage to the texts that it gives back.

    Attributes:
        network: The stock decoder of transformers.
        own: Its parameters that are not the encoder's, by name with / in place of the dots.
    """

    def __init__(self, model: SiameseBert, deletion: float, seed: int) -> None:
        """Build the decoder; its own weights are those of the model's folder, or random ones by the seed.

        Raises:
            InputError: transformers has no decoder for this kind of encoder, or the vocabulary does not show where a
                word begins.
        """
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.losses import DenoisingAutoEncoderLoss

        bert = model.bert
        check_can_decode(bert.plan.config.model_type)
        self.deletion, self.seed, self.encoder = deletion, seed, bert.encoder
        self._begins_word, self._padding_id = bert.tokenizer.begins_word, bert.tokenizer.padding_id
        prompt = int(prompt_tokens(bert.tokenizer, model.prompts_of_pair[:1], model.max_seq_length)[0])
        self._kept = max(prompt, len(bert.tokenizer.specials.before)), len(bert.tokenizer.specials.after)
        with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]), quiet_transformers():
            torch.manual_seed(seed)
            model.save_pretrained(folder)
            self._loss = DenoisingAutoEncoderLoss(SentenceTransformer(folder, device="cpu", local_files_only=True))
        self._loss.add_module("encoder", nn.Identity())  # it is called with vectors
        self.network: PreTrainedModel = self._loss.decoder.float()
        _read_head(self.network, model)
        self.network.to(bert.device)
        use_fast_dropout(self.network)
        _share_weights(bert.encoder, self.network)
        shared = {id(parameter) for parameter in bert.encoder.parameters()}
        own = {name: its for name, its in self.network.named_parameters() if id(its) not in shared}
        self.own = nn.ParameterDict({name.replace(".", "/"): its for name, its in own.items()})

    def __call__(self, vectors: Tensor, token_ids: Tensor) -> Tensor:
        """Return the mean cross-entropy of the tokens of N texts, from their vectors, shape (N, d): a scalar.

        token_ids: Shape (N, C), int64, as `damage` returns them, on the vectors' device.
        """
        if self.network.training != self.encoder.training:
            self.network.train(self.encoder.training)
        given = {"sentence_embedding": vectors, "attention_mask": token_ids.new_ones(len(token_ids), 1)}
        loss: Tensor = self._loss([given, {"input_ids": token_ids}], None)
        return loss

    def damage(self, texts: TextTokens, *place: int) -> tuple[TextTokens, Tensor]:
        """Return N texts with words deleted, and their token ids as they were, padded: shape (N, C), int64, on the CPU.

        Which words are deleted follows from the seed and `place`, such as the number of the step.
        """
        generator = np.random.default_rng([self.seed, *place, _DAMAGE])
        lengths = texts.lengths
        whole = np.full((len(texts), int(lengths.max())), self._padding_id, np.int64)
        whole[np.arange(whole.shape[1]) < lengths[:, None]] = texts.token_ids
        return delete_words(texts, self._begins_word, self._kept, self.deletion, generator), torch.from_numpy(whole)

    @property
    def vocab_size(self) -> int:
        """Number of its outputs."""
        return int(self.network.config.vocab_size)

    def n_predicted(self, token_ids: Tensor) -> Tensor:
        """Return how many tokens the loss of these texts is the mean over, a scalar."""
        return (token_ids[:, 1:] != self._padding_id).sum()


def check_can_decode(kind: str) -> None:
    """Check that transformers has a decoder with cross-attention for this kind of encoder.

    Raises:
        InputError: It has none.
    """
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        able = [name for name in KINDS if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]
        raise InputError(
            f"objective tsdae needs a decoder, which transformers does not have for {kind} encoders",
            f"use objective simcse, or an encoder of the kind {', '.join(able[:-1])} or {able[-1]}",
        )


def delete_words(
    texts: TextTokens,
    begins_word: NDArray[np.bool_],
    n_kept: Sequence[int],
    deletion: float,
    generator: np.random.Generator,
) -> TextTokens:
    """Return N texts without the words that are drawn with the probability `deletion`; at least one word stays.

    Args:
        texts: With their special tokens; their first words begin where these end.
        begins_word: Whether each token of the vocabulary begins a word, shape (V,).
        n_kept: How many tokens at the beginning and at the end of each text always stay.
        deletion: Above 0 and below 1.
        generator: Gives one number for each word.
    """
    lengths, (first, last) = texts.lengths, n_kept
    text = np.repeat(np.arange(len(texts)), lengths)
    nth = np.arange(len(text)) - texts.offsets[text]
    in_words = (nth >= first) & (nth < lengths[text] - last)
    begins = in_words & (begins_word[texts.token_ids] | (nth == first))
    draws = generator.random(int(begins.sum()))
    highest = np.zeros(len(texts))
    np.maximum.at(highest, text[begins], draws)
    stays = (draws >= deletion) | (draws == highest[text[begins]])
    kept = ~in_words
    kept[in_words] = stays[np.cumsum(begins)[in_words] - 1]
    types = None if texts.token_types is None else texts.token_types[kept]
    offsets = offsets_of(np.bincount(text[kept], minlength=len(texts)))
    return TextTokens(texts.token_ids[kept], offsets, types, texts.skipped)


def _read_head(network: PreTrainedModel, model: SiameseBert) -> None:
    """Read the head for masked words, if the model's folder has one."""
    try:
        weights = find_weights(model.bert.source.encoder_path)
    except ModelFolderError:  # a model with random weights
        return
    state = network.state_dict()
    inner = f"{network.base_model_prefix}."
    names = [name for name in state if not name.startswith(inner) and name in weights.tensors]
    found = read_tensors(weights, {name: name for name in names})
    network.load_state_dict({n: its for n, its in found.items() if its.shape == state[n].shape}, strict=False)


def _share_weights(encoder: PreTrainedModel, network: PreTrainedModel) -> None:
    """Replace the decoder's parameters by the encoder's of the same name, so that what holds those need not know."""
    base = getattr(network, network.base_model_prefix)
    for name, parameter in encoder.named_parameters():
        module, _, attribute = name.rpartition(".")
        assert getattr(base.get_submodule(module), attribute).shape == parameter.shape, name
        setattr(base.get_submodule(module), attribute, parameter)
    network.tie_weights()  # the head's last layer is the word table
