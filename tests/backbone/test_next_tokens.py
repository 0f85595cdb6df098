"""Likelihoods from states against plain logits: values, gradients, and which heads stand for themselves.

Shape legend: B rows, N text tokens, M tokens that count, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM, PreTrainedTokenizerFast

from r3mem import Backbone, Segments
from r3mem.backbone.next_tokens import NextTokens, divergences, token_nats
from r3mem.objectives import distillation, forward_nll, log_likelihood, reconstruction_nll
from tests.tiny_models import FAMILIES, LAYERS, VOCABULARY, awaken_adapters, tiny_r3mem

WIDE, WORDS = 16, 37
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
#: Of the values and of the gradients: a half-precision product is rounded in another order in another chunk.
TOLERANCE = {
    torch.float32: {"rtol": 1e-5, "atol": 1e-6},
    torch.bfloat16: {"rtol": 2e-2, "atol": 2e-2},
    torch.float16: {"rtol": 2e-3, "atol": 2e-3},
}


@pytest.fixture(params=[1, 3, 1 << 10])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of one token, of three, and one chunk of all."""
    for name in ("CHUNK_CPU", "CHUNK_GPU"):
        monkeypatch.setattr(f"r3mem.backbone.next_tokens.{name}", request.param * WORDS)


def drawn(tokens: int, device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States, weight of a head, tokens, and what each of them counts in the loss."""
    torch.manual_seed(0)
    states_MD, weight_VD, counts_M = torch.randn(tokens, WIDE), torch.randn(WORDS, WIDE), torch.rand(tokens)
    return (
        states_MD.to(device, dtype), weight_VD.to(device, dtype), torch.randint(WORDS, (tokens,), device=device),
        counts_M.to(device),
    )  # fmt: skip


def with_gradient(run: Callable[[Tensor], Tensor], states_MD: Tensor, counts_M: Tensor) -> tuple[Tensor, Tensor]:
    leaf_MD = states_MD.clone().requires_grad_()
    nats_M = run(leaf_MD)
    (nats_M * counts_M).sum().backward()
    assert nats_M.dtype == torch.float32 and leaf_MD.grad is not None and leaf_MD.grad.dtype == states_MD.dtype
    return nats_M.detach(), leaf_MD.grad


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("tokens", [0, 1, 10])
@pytest.mark.parametrize("autocast", [False, True])
def test_nats_are_those_of_plain_logits(
    tokens: int, dtype: torch.dtype, device: str, autocast: bool, chunk: None
) -> None:
    states_MD, weight_VD, targets_M, counts_M = drawn(tokens, device, dtype)

    def plain(of_MD: Tensor) -> Tensor:
        return F.cross_entropy((of_MD @ weight_VD.T).float(), targets_M, reduction="none")

    expected = with_gradient(plain, states_MD, counts_M)
    with torch.autocast(device, torch.bfloat16, enabled=autocast):
        got = with_gradient(lambda of_MD: token_nats(of_MD, weight_VD, targets_M), states_MD, counts_M)
    torch.testing.assert_close(got, expected, **TOLERANCE[dtype])
    assert torch.equal(token_nats(states_MD, weight_VD, targets_M), got[0])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("tokens", [0, 1, 10])
def test_divergences_are_those_of_plain_logits(tokens: int, dtype: torch.dtype, device: str, chunk: None) -> None:
    states_MD, weight_VD, _, counts_M = drawn(tokens, device, dtype)
    teacher_MD = states_MD + torch.randn_like(states_MD) / 2

    def plain(of_MD: Tensor) -> Tensor:
        ours_MV, theirs_MV = (((x @ weight_VD.T).float()).log_softmax(1) for x in (of_MD, teacher_MD))
        return F.kl_div(ours_MV, theirs_MV, reduction="none", log_target=True).sum(1)

    expected = with_gradient(plain, states_MD, counts_M)
    got = with_gradient(lambda of_MD: divergences(of_MD, teacher_MD, weight_VD), states_MD, counts_M)
    torch.testing.assert_close(got, expected, **TOLERANCE[dtype])


def test_a_token_that_is_sure_or_hopeless_has_finite_nats_and_a_gradient() -> None:
    states_MD = torch.tensor([[300.0, 0.0], [-300.0, 0.0]], requires_grad=True)
    nats_M = token_nats(states_MD, torch.eye(2), torch.zeros(2, dtype=torch.long))
    nats_M.sum().backward()
    torch.testing.assert_close(nats_M.detach(), torch.tensor([0.0, 300.0]))
    torch.testing.assert_close(states_MD.grad, torch.tensor([[0.0, 0.0], [-1.0, 1.0]]))


def test_no_logits_are_kept_and_a_checkpoint_computes_them_again() -> None:
    states_MD, weight_VD, targets_M, counts_M = drawn(10, "cpu", torch.float32)
    largest = 0

    def pack(kept: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, kept.numel())
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
        expected = with_gradient(lambda of_MD: token_nats(of_MD, weight_VD, targets_M), states_MD, counts_M)
    assert largest == states_MD.numel()
    again = with_gradient(
        lambda of_MD: checkpoint(token_nats, of_MD, weight_VD, targets_M, use_reentrant=False), states_MD, counts_M
    )
    torch.testing.assert_close(again, expected)


def texts(lengths: tuple[int, ...]) -> Segments:
    torch.manual_seed(3)
    return Segments(torch.randint(VOCABULARY, (len(lengths), 6)), torch.tensor(lengths))


def both(backbone: Backbone, text: Segments) -> tuple[Any, Any]:
    """A pass with its logits, and one that ends in front of the head."""
    with backbone.head_apart():
        apart = backbone(text)
    return backbone(text), apart


@pytest.mark.parametrize("pack", [None, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_may_end_in_front_of_its_head(
    tiny_backbone: Callable[..., Backbone], family: str, pack: int | None
) -> None:
    backbone, text = tiny_backbone(family, pack=pack).eval(), texts((6, 2, 0, 1))
    awaken_adapters(backbone)
    read: list[Any] = []
    backbone.base.get_output_embeddings().register_forward_hook(lambda *_: read.append(None))
    with backbone.head_apart():
        backbone(text)
        read.clear()
        apart = backbone(text, capture=LAYERS - 1)
    assert not read and isinstance(apart.scores, NextTokens)
    whole = backbone(text, capture=LAYERS - 1)
    torch.testing.assert_close(apart.logits_BNV[text.mask_BN], whole.logits_BNV[text.mask_BN])
    torch.testing.assert_close(apart.text_BND, whole.text_BND)
    assert apart.logits_BNV is apart.logits_BNV and apart.logits_BNV.requires_grad


@pytest.mark.parametrize(
    ("lengths", "rows"),
    [((6, 2, 0, 1), (True, True, True, True)), ((6, 2, 0, 1), (False,) * 4), ((6, 4), (True, False))],
)
def test_terms_say_the_same_of_states_and_of_logits(
    tiny_backbone: Callable[..., Backbone], lengths: tuple[int, ...], rows: tuple[bool, ...]
) -> None:
    backbone, text, rows_B = tiny_backbone().eval(), texts(lengths), torch.tensor(rows)
    awaken_adapters(backbone)
    with torch.no_grad(), backbone.adapters_off():
        taught = both(backbone, text)

    def found(made: Any, teacher: Any) -> dict[str, Tensor]:
        terms = {
            "forward": forward_nll(made.scores, text, rows_B)[0],
            "reconstruction": reconstruction_nll(made, text)[0],
            "some": log_likelihood(made.scores, text, 2, torch.full_like(text.lengths_B, 5)).sum(),
            "kl": distillation(made.scores, teacher.scores, text, rows_B)[0],
        }
        backbone.zero_grad()
        (sum(terms.values()) / 7).backward()
        gradients = {name: p.grad.clone() for name, p in backbone.adapter_parameters()}
        return {name: term.detach() for name, term in terms.items()} | gradients

    plain, apart = (found(made, teacher) for made, teacher in zip(both(backbone, text), taught, strict=True))
    torch.testing.assert_close(apart, plain, rtol=1e-4, atol=1e-5)


def capped(config: Any, made: type[Any], tokenizer: PreTrainedTokenizerFast, **options: Any) -> Backbone:
    torch.manual_seed(0)
    shape = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": LAYERS,
             "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": 256,
             "pad_token_id": None}  # fmt: skip
    return Backbone.wrap(made(config(**shape, **options)), tokenizer, lora_rank=2).eval()


def test_heads_that_are_more_than_a_product_give_logits(
    tiny_backbone: Callable[..., Backbone], byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    soft = capped(Gemma2Config, Gemma2ForCausalLM, byte_tokenizer, head_dim=8, final_logit_softcapping=30.0)
    scaled = capped(GraniteConfig, GraniteForCausalLM, byte_tokenizer, logits_scaling=3.0)
    adapted = tiny_backbone(lora_targets=["lm_head", "q_proj"]).eval()
    biased = tiny_backbone().eval()
    biased.base.lm_head = nn.Linear(32, VOCABULARY).requires_grad_(False)
    trained = tiny_backbone().eval()
    with trained.head_apart():
        assert isinstance(trained(texts((3,))).scores, NextTokens)
    trained.base.get_output_embeddings().weight.requires_grad_()
    for backbone in (soft, scaled, adapted, biased, trained):
        whole, apart = both(backbone, texts((6, 2)))
        assert isinstance(apart.scores, Tensor) and torch.equal(apart.scores, whole.scores)
        # Later passes know it, and the model is as it was.
        assert torch.equal(backbone(texts((6, 2))).scores, whole.scores)


def test_steps_of_a_model_end_in_front_of_the_head(tiny_backbone: Callable[..., Backbone]) -> None:
    model, text = tiny_r3mem(tiny_backbone()), texts((6, 6))
    with torch.no_grad():
        step = model.step(text)
        again = model.step(text, step.state)
        assert isinstance(again.scores, NextTokens)
        torch.testing.assert_close(again.logits_BNV, model.likelihood(text, step.state), rtol=1e-4, atol=1e-4)
        assert model.step(text, step.state, logits=False).logits_BNV is None
    assert isinstance(model.scores(text, step.state), NextTokens)
    assert isinstance(model.reconstruct(text, step.state).scores, NextTokens)
