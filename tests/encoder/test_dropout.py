"""Dropout masks are independent, have the right rate, repeat for the same random state, and change nothing else."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_spec import SETTINGS, make_encoder_folder, sentences
from torch import Tensor, nn
from torch.nn import functional as F

from sbert_ft.encoder.dropout import FastDropout, dropout, dropout_set_to, use_fast_dropout
from sbert_ft.encoder.packing import PackedBatch
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.models.siamese import SiameseBert

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@pytest.fixture
def model(tmp_path: Path, tiny_bert_folder: Callable[..., Path]) -> SiameseBert:
    return SiameseBert.from_pretrained(tiny_bert_folder(tmp_path / "model"), "cpu", "float32")


def batch_of(bert: ConnectionBert) -> PackedBatch:
    return bert.pack(bert.tokenizer.frame(bert.tokenizer.tokenize(sentences(12)), min(48, bert.max_tokens)))


def vectors_in_training(bert: ConnectionBert, batch: PackedBatch) -> Tensor:
    return batch.pool(bert.train()(batch)).detach()


# masks


@pytest.mark.parametrize("rate", [1e-3, 0.1, 0.5, 0.9, 0.999])
def test_as_many_are_dropped_as_the_rate_says(rate: float) -> None:
    n = 1_000_000
    n_dropped = int((dropout(torch.ones(n), rate) == 0).sum())
    spread = (n * rate * (1 - rate)) ** 0.5
    assert abs(n_dropped - n * rate) < 4 * spread + n * 2**-16


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.7])
def test_expectation_is_preserved_in_every_type(dtype: torch.dtype, rate: float) -> None:
    n = 1_000_000
    found = dropout(torch.full((n,), 2.0, dtype=dtype), rate)
    assert found.dtype == dtype
    # the factor is rounded to the type, as in torch's own dropout on a CPU
    sampling = 4 * 2 * (rate / (1 - rate) / n) ** 0.5
    assert abs(float(found.double().mean()) - 2.0) < sampling + 2 * torch.finfo(dtype).eps + 2**-14
    kept = found[found != 0].double()
    torch.testing.assert_close(
        kept, torch.full_like(kept, 2 / (1 - rate)), rtol=torch.finfo(dtype).eps + 2**-14, atol=0
    )


def test_masks_do_not_depend_on_neighbours_or_on_earlier_calls() -> None:
    n = 4 * 200_000
    limit = 4 / (n / 4) ** 0.5
    for rate in (0.1, 0.5):
        masks = [(dropout(torch.ones(n), rate) == 0).double() for _ in range(3)]
        within = [mask.view(-1, 4) for mask in masks]  # the four that come from one draw of 64 bits
        quarters = [draw[:, place] for draw in within for place in range(4)]
        correlations = torch.corrcoef(torch.stack(quarters)) - torch.eye(12, dtype=torch.float64)
        assert float(correlations.abs().max()) < limit
        following = torch.corrcoef(torch.stack([masks[0][:-1], masks[0][1:]]))[0, 1]
        assert abs(float(following)) < limit
        # all sixteen patterns of four, so that no combination is left out
        patterns = (within[0] @ torch.tensor([1.0, 2, 4, 8], dtype=torch.float64)).long()
        counts = torch.bincount(patterns, minlength=16).double() / len(patterns)
        bits = torch.tensor([bin(pattern).count("1") for pattern in range(16)])
        expected = rate ** bits.double() * (1 - rate) ** (4 - bits.double())
        assert float(((counts - expected) / (expected / len(patterns)).sqrt()).abs().max()) < 5


@pytest.mark.parametrize("shape", [(), (1,), (3,), (7, 5), (2, 3, 5, 1), (0,), (4, 0, 2), (1001,)], ids=str)
def test_every_shape_is_taken(shape: tuple[int, ...]) -> None:
    found = dropout(torch.ones(shape), 0.5)
    assert found.shape == shape
    assert set(found.unique().tolist()) <= {0.0, 2.0}


def test_views_that_are_not_contiguous_are_taken() -> None:
    whole = torch.ones(6, 10)
    torch.manual_seed(1)
    plain = dropout(torch.ones(10, 6), 0.5)
    torch.manual_seed(1)
    assert torch.equal(dropout(whole.t(), 0.5), plain)
    assert torch.equal(whole, torch.ones(6, 10))


@pytest.mark.parametrize("rate", [0.0, 1e-7, 1 - 1e-7, 1.0])
def test_rates_at_the_ends_are_those_of_torch(rate: float) -> None:
    activation = torch.randn(1000)
    torch.manual_seed(1)
    found = dropout(activation, rate)
    torch.manual_seed(1)
    assert torch.equal(found, F.dropout(activation, rate))
    if rate in (0.0, 1.0):
        assert torch.equal(found, activation if rate == 0 else torch.zeros(1000))


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_a_rate_out_of_range_is_refused(rate: float) -> None:
    with pytest.raises(ValueError):
        dropout(torch.ones(4), rate)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_gradient_is_mask_times_scale(dtype: torch.dtype) -> None:
    activation = torch.ones(1001, dtype=dtype, requires_grad=True)
    found = dropout(activation, 0.3)
    upstream = torch.randn(1001).to(dtype)
    found.backward(upstream)
    assert activation.grad is not None
    torch.testing.assert_close(activation.grad, found.detach() * upstream, rtol=0, atol=0)


def test_the_same_random_state_gives_the_same_mask_and_only_that_one() -> None:
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first = dropout(torch.ones(1001), 0.5)
    second = dropout(torch.ones(1001), 0.5)
    torch.set_rng_state(state)
    assert torch.equal(dropout(torch.ones(1001), 0.5), first)
    assert not torch.equal(first, second)
    # the type has no part in the mask
    torch.set_rng_state(state)
    assert torch.equal(dropout(torch.ones(1001, dtype=torch.bfloat16), 0.5).float(), first)


# modules


def test_plain_dropout_is_replaced_with_its_rate_and_mode() -> None:
    class Own(nn.Dropout):
        pass

    own = Own(0.2)
    inner = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.3))
    module = nn.Sequential(nn.Dropout(0.1), inner, own, nn.AlphaDropout(0.4), nn.Identity())
    inner.eval()
    use_fast_dropout(module)
    assert isinstance(module[0], FastDropout) and isinstance(inner[1], FastDropout)
    assert (module[0].p, inner[1].p) == (0.1, 0.3)
    assert module[0].training and not inner[1].training
    assert module[2] is own and type(module[3]) is nn.AlphaDropout
    use_fast_dropout(module)
    assert module[0].p == 0.1


def test_a_module_drops_in_training_alone() -> None:
    layer, activation = FastDropout(0.5), torch.ones(1000)
    assert set(layer(activation).tolist()) == {0.0, 2.0}
    assert layer.eval()(activation) is activation
    assert FastDropout(0.0)(activation) is activation


def test_rates_are_set_for_a_while_and_restored_after_an_error() -> None:
    module = nn.Sequential(nn.Dropout(0.1), FastDropout(0.3), nn.Linear(2, 2))
    with dropout_set_to(module, 0.5):
        assert [module[0].p, module[1].p] == [0.5, 0.5]
    with dropout_set_to(module, None):
        assert [module[0].p, module[1].p] == [0.1, 0.3]
    with pytest.raises(RuntimeError), dropout_set_to(module, 0.0):
        assert [module[0].p, module[1].p] == [0.0, 0.0]
        raise RuntimeError
    assert [module[0].p, module[1].p] == [0.1, 0.3]


# encoders


@pytest.fixture(scope="module", params=[*SETTINGS])
def encoder_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small encoder of each kind with dropout wherever its config has a rate."""
    folder = make_encoder_folder(tmp_path_factory.mktemp("kinds") / request.param, request.param)
    config = json.loads((folder / "config.json").read_text())
    rates = ("dropout", "attention_dropout", "embedding_dropout", "mlp_dropout", "hidden_dropout_prob")
    for key in (*rates, "attention_probs_dropout_prob"):
        if key in config:
            config[key] = 0.3
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_every_rate_of_every_kind_of_encoder_is_set(encoder_folder: Path) -> None:
    bert = ConnectionBert.from_pretrained(encoder_folder, "cpu", "float32")
    batch = batch_of(bert)
    expected = batch.pool(bert.eval()(batch)).detach()
    with dropout_set_to(bert.encoder, 0.0):
        torch.testing.assert_close(vectors_in_training(bert, batch), expected, atol=2e-6, rtol=0)
    # the rates of the config are in force again
    changed = vectors_in_training(bert, batch)
    assert float((changed - expected).abs().max()) > 0.05
    with dropout_set_to(bert.encoder, 0.9):
        assert (vectors_in_training(bert, batch) - expected).norm() > (changed - expected).norm()


def test_attention_weights_alone_are_dropped_by_their_own_rate(encoder_folder: Path) -> None:
    bert = ConnectionBert.from_pretrained(encoder_folder, "cpu", "float32")
    batch = batch_of(bert)
    expected = batch.pool(bert.eval()(batch)).detach()
    with dropout_set_to(bert.encoder, 0.0):
        n_set = 0
        for name, layer in bert.encoder.named_modules():
            if isinstance(layer, nn.Dropout) and "att" in name and not name.endswith(("output.dropout", "pos_dropout")):
                layer.p, n_set = 0.5, n_set + 1
        if n_set == 0:
            pytest.skip("this kind keeps the rate of attention weights elsewhere")
        torch.manual_seed(3)
        first = vectors_in_training(bert, batch)
        assert float((first - expected).abs().max()) > 0.01
        torch.manual_seed(3)
        assert torch.equal(vectors_in_training(bert, batch), first)


def test_an_encoder_with_fast_dropout_has_the_stock_names_and_weights(
    tmp_path: Path, tiny_bert_folder: Callable[..., Path], model: SiameseBert
) -> None:
    from transformers import BertModel

    stock = BertModel.from_pretrained(tiny_bert_folder(tmp_path / "stock"), add_pooling_layer=False)
    encoder = model.bert.encoder
    assert not [name for name, layer in encoder.named_modules() if type(layer) is nn.Dropout]
    assert [type(layer).__name__ for layer in encoder.modules()].count("FastDropout") == 7
    ours, theirs = encoder.state_dict(), stock.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    model.save_pretrained(tmp_path / "saved")
    again = SiameseBert.from_pretrained(tmp_path / "saved", "cpu", "float32")
    assert all(torch.equal(again.bert.encoder.state_dict()[name], ours[name]) for name in ours)
    assert not again.bert.encoder.training


def test_a_copy_of_an_encoder_drops_on_its_own(model: SiameseBert) -> None:
    encoder = model.bert.encoder.train()
    twin = copy.deepcopy(encoder)
    assert [type(layer) for layer in twin.modules()] == [type(layer) for layer in encoder.modules()]
    with dropout_set_to(twin, 0.0):
        rates = {layer.p for layer in encoder.modules() if isinstance(layer, nn.Dropout)}
        assert rates == {0.1}


def test_gradient_checkpointing_gives_the_same_gradient_under_dropout(model: SiameseBert) -> None:
    encoder = model.bert.encoder
    batch = batch_of(model.bert)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            # later versions of transformers warn of the older name
            getattr(encoder, "activation_checkpointing_enable", encoder.gradient_checkpointing_enable)()
        model.train()
        torch.manual_seed(5)
        model(batch).pow(2).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None]))
        model.zero_grad()
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-6 * float(gradients[0].abs().max()))
    model.eval()
    model(batch).pow(2).sum().backward()
    without = torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])
    assert float((without - gradients[0]).abs().max()) > 0.01 * float(gradients[0].abs().max())
