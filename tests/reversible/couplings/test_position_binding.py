"""PositionBinding: the shared battery, and the promise that the words are exact."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch

from r3mem.errors import ConfigError
from r3mem.reversible import PositionBinding, ReversibleStack
from tests.battery.coupling import CouplingBattery


class TestPositionBinding(CouplingBattery):
    build = staticmethod(partial(PositionBinding, width=32, ratio=4, share=0.5))


@pytest.fixture
def binding() -> PositionBinding:
    return PositionBinding(48, ratio=4, share=0.5).double()


def streams(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    text_BND = torch.randn(3, 10, 48, generator=generator, dtype=torch.float64)
    slots_BKD = 20 * torch.randn(3, 3, 48, generator=generator, dtype=torch.float64)
    return text_BND.to(dtype), slots_BKD.to(dtype), torch.tensor([10, 5, 0])


def test_share_is_what_was_asked_for() -> None:
    binding = PositionBinding(576, ratio=16)
    assert (binding.code_dims, binding.share_dims) == (9, 144)


def test_g_of_f_is_the_projection_on_the_row_space(binding: PositionBinding) -> None:
    text_BND, _, lengths_B = streams()
    again_BND = binding.to_text(binding.to_memory(text_BND, lengths_B), lengths_B, 10)
    rows_CD = binding.code_table(torch.eye(48, dtype=torch.float64)).T
    torch.testing.assert_close(rows_CD @ rows_CD.T, torch.eye(6, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(again_BND[0], text_BND[0] @ rows_CD.T @ rows_CD, atol=1e-12, rtol=0)


def test_g_is_the_transpose_of_f(binding: PositionBinding) -> None:
    text_BND, slots_BKD, lengths_B = streams()
    forward = (binding.to_memory(text_BND, lengths_B) * slots_BKD).sum()
    backward = (binding.to_text(slots_BKD, lengths_B, 10) * text_BND).sum()
    torch.testing.assert_close(forward, backward, atol=1e-10, rtol=0)


def test_words_are_exact_in_the_memory_alone_whatever_was_written(binding: PositionBinding) -> None:
    text_BND, slots_BKD, lengths_B = streams()
    stack = ReversibleStack([binding])
    _, memory_BKD = stack.retain(text_BND, stack.project_off_share(slots_BKD), lengths_B)
    expected_BNC = binding.code_table(text_BND) * (torch.arange(10) < lengths_B[:, None])[..., None]
    torch.testing.assert_close(binding.code(memory_BKD, lengths_B, 10), expected_BNC, atol=1e-12, rtol=0)
    text_again_BND, slots_again_BKD = stack.recall(memory_BKD, lengths_B, 10)
    torch.testing.assert_close(binding.code_table(text_again_BND), expected_BNC, atol=1e-12, rtol=0)
    torch.testing.assert_close(slots_again_BKD, stack.project_off_share(slots_BKD), atol=1e-12, rtol=0)


def test_words_are_exact_to_rounding_in_float32() -> None:
    binding = PositionBinding(48, ratio=4, share=0.5)
    text_BND, slots_BKD, lengths_B = streams(torch.float32)
    _, memory_BKD = ReversibleStack([binding]).retain(text_BND, binding.project_off_share(slots_BKD), lengths_B)
    torch.testing.assert_close(
        binding.code(memory_BKD, lengths_B, 10)[0], binding.code_table(text_BND)[0], atol=5e-5, rtol=0
    )


def test_every_token_is_found_again_at_the_default_share() -> None:
    generator = torch.Generator().manual_seed(0)
    table_VD = torch.randn(2000, 576, generator=generator)
    ids_N = torch.randint(2000, (100,), generator=generator)
    binding = PositionBinding(576, ratio=16)
    stack = ReversibleStack([binding])
    slots_BKD = stack.project_off_share(50 * torch.randn(1, 7, 576, generator=generator))
    _, memory_BKD = stack.retain(table_VD[ids_N][None], slots_BKD, torch.tensor([100]))
    code_NC = binding.code(memory_BKD, torch.tensor([100]), 100)[0]
    assert torch.equal(torch.cdist(code_NC, binding.code_table(table_VD)).argmin(-1), ids_N)


def test_exclude_removes_the_share_and_nothing_else(binding: PositionBinding) -> None:
    _, slots_BKD, _ = streams()
    before_BKD, after_BKD = (x @ binding.rotation_DD for x in (slots_BKD, binding.project_off_share(slots_BKD)))
    share = binding.share_dims
    torch.testing.assert_close(after_BKD[..., :share], torch.zeros_like(after_BKD[..., :share]), atol=1e-12, rtol=0)
    torch.testing.assert_close(after_BKD[..., share:], before_BKD[..., share:], atol=1e-12, rtol=0)


def test_rotation_is_orthogonal_and_puts_the_share_first(binding: PositionBinding) -> None:
    rotation_DD = binding.rotation_DD
    assert rotation_DD.shape == (48, 48) and not rotation_DD.requires_grad
    torch.testing.assert_close(rotation_DD.T @ rotation_DD, torch.eye(48, dtype=torch.float64), atol=1e-12, rtol=0)
    text_BND, _, lengths_B = streams()
    coordinates_BKD = binding.to_memory(text_BND, lengths_B) @ rotation_DD
    assert coordinates_BKD[..., : binding.share_dims].abs().max() > 0.1
    assert coordinates_BKD[..., binding.share_dims :].abs().max() < 1e-12


def test_unit_text_gives_unit_codes() -> None:
    text_BND = torch.randn(4, 256, 576, generator=torch.Generator().manual_seed(0))
    assert PositionBinding(576, ratio=16).code_table(text_BND).std().item() == pytest.approx(1.0, abs=0.03)


def test_matrices_come_from_the_seed_alone() -> None:
    torch.manual_seed(5)
    first = PositionBinding(48, ratio=4, seed=3)
    torch.manual_seed(6)
    second = PositionBinding(48, ratio=4, seed=3)
    other = PositionBinding(48, ratio=4, seed=4)
    eye_DD = torch.eye(48)
    assert torch.equal(first.rotation_DD, second.rotation_DD)
    assert torch.equal(first.code_table(eye_DD), second.code_table(eye_DD))
    assert not torch.allclose(first.rotation_DD, other.rotation_DD, atol=0.1)
    assert not torch.allclose(first.code_table(eye_DD), other.code_table(eye_DD), atol=0.1)
    assert first.state_dict() == {}


def test_matrices_are_those_of_earlier_versions() -> None:
    """Memories on disk can be read only with the matrices they were written with."""
    binding = PositionBinding(48, ratio=4, seed=0)
    torch.testing.assert_close(binding.rotation_DD[0, :3], torch.tensor(ROTATION), atol=1e-6, rtol=0)
    torch.testing.assert_close(binding.code_table(torch.eye(48))[:3, 0], torch.tensor(PROJECTION), atol=1e-6, rtol=0)


ROTATION = [0.0178827, -0.0225317, 0.0887658]
PROJECTION = [0.0146941, -0.1466853, 0.0561345]


def test_casting_the_module_down_does_not_spoil_the_matrices() -> None:
    binding = PositionBinding(48, ratio=4)
    expected_DD = binding.rotation_DD.clone()
    assert torch.equal(copy.deepcopy(binding).bfloat16().rotation_DD, expected_DD)
    assert torch.equal(torch.nn.Sequential(copy.deepcopy(binding)).half()[0].rotation_DD, expected_DD)
    wide_DD = copy.deepcopy(binding).double().rotation_DD
    assert (wide_DD.T @ wide_DD - torch.eye(48)).abs().max() < 1e-14
    assert torch.equal(copy.deepcopy(binding).to("meta").to_empty(device="cpu").rotation_DD, expected_DD)


def test_error_names_what_would_work() -> None:
    with pytest.raises(ConfigError, match=r"ratio of at most 12.*share of at least 0\.3334"):
        PositionBinding(48, ratio=16)
    assert PositionBinding(48, ratio=12).code_dims == PositionBinding(48, ratio=16, share=0.3334).code_dims == 1
    with pytest.raises(ConfigError, match=r"a larger width$"):
        PositionBinding(3, ratio=4, share=0.2)


@pytest.mark.parametrize("options", [{"share": 0.0}, {"share": 1.1}, {"ratio": 0}, {"width": 0}])
def test_refuses_values_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        PositionBinding(**{"width": 48, "ratio": 4, **options})
