"""Exposure between views: found without aligned pixels, free of charge, no reason to move."""

from __future__ import annotations

from crossview_plane import CONFIG, PLAIN, cost, motion, plane
import pytest
import torch

from kpvo_ros.methods.crossview.view_synthesis import (
    Neighbour,
    brightness_between,
    view_synthesis_loss,
)


def test_a_change_of_brightness_costs_nothing_when_aligned() -> None:
    view, neighbour = plane(motion())
    darker = neighbour._replace(
        view=neighbour.view._replace(image=0.6 * neighbour.view.image + 0.1)
    )
    assert cost(view, darker) == pytest.approx(0.0, abs=1e-6)
    assert cost(view, darker, config=PLAIN) > 0.02


def test_light_that_changes_at_standstill_is_no_reason_to_move() -> None:
    view, _ = plane(motion())
    darker = Neighbour(view._replace(image=0.6 * view.image + 0.1), motion())
    loss = view_synthesis_loss(view, [darker], CONFIG)
    assert float(loss.parts['photometric']) == 0.0
    assert float(loss.parts['counted']) == 0.0


def test_gain_and_offset_are_found_although_the_views_do_not_fall_together(
    torch_generator: torch.Generator,
) -> None:
    image = torch.rand((2, 3, 40, 60), generator=torch_generator, dtype=torch.float64)
    reference = 1.7 * image.roll((6, 10), dims=(2, 3)) - 0.2
    every = torch.ones(2, 1, 40, 60, dtype=torch.bool)
    gain, offset = brightness_between(image, reference, every)
    torch.testing.assert_close(gain, torch.full_like(gain, 1.7))
    torch.testing.assert_close(offset, torch.full_like(offset, -0.2))


def test_gain_and_offset_hardly_notice_a_glare(torch_generator: torch.Generator) -> None:
    image = torch.rand((1, 3, 40, 60), generator=torch_generator, dtype=torch.float64)
    reference = 0.8 * image + 0.05
    reference[..., :10, :18] = 1.0  # 7.5 % of the picture
    gain, offset = brightness_between(image, reference, torch.ones(1, 1, 40, 60).bool())
    assert float(gain) == pytest.approx(0.8, abs=0.08)
    assert float((gain * 0.5 + offset).squeeze()) == pytest.approx(0.45, abs=0.03)
    valid = torch.ones(1, 1, 40, 60).bool()
    valid[..., :10, :18] = False
    gain, _ = brightness_between(image, reference, valid)
    assert float(gain) == pytest.approx(0.8)


def test_brightness_without_pixels_or_contrast_is_left_or_shifted() -> None:
    flat = torch.full((1, 3, 6, 6), 0.3)
    nothing = torch.zeros(1, 1, 6, 6, dtype=torch.bool)
    gain, offset = brightness_between(flat, flat + 0.2, nothing)
    assert (float(gain), float(offset)) == (1.0, 0.0)
    gain, offset = brightness_between(flat, flat + 0.2, ~nothing)
    assert float(gain) == 1.0
    assert float(offset) == pytest.approx(0.2)
