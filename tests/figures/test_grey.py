"""Readable without colours: shades in order, text in contrast, lines told apart."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from ltbench.figures.canvas import series
from ltbench.figures.shades import colormap, lightness, luminance, text_on


def test_luminance_of_known_colours():
    # WCAG 2.2: white 1, black 0, #777777 has contrast 4.48 to white.
    assert luminance(np.array([1.0, 1, 1])) == pytest.approx(1)
    assert luminance(np.array([0.0, 0, 0])) == 0
    grey = float(luminance(np.array(to_rgb("#777777"))))
    assert 1.05 / (grey + 0.05) == pytest.approx(4.48, abs=0.005)
    assert float(lightness(np.array(to_rgb("#777777")))) == pytest.approx(50, abs=0.1)


def test_shades_darken_in_even_steps():
    light = lightness(colormap()(np.linspace(0, 1, 256)))
    steps = -np.diff(light)
    assert light[0] == pytest.approx(100, abs=0.01)
    assert light[-1] < 25
    assert (steps > 0).all()
    assert steps.max() / steps.min() < 1.2
    # What a grey printer makes of sRGB by its weights, not by luminance, is in order too.
    weights = colormap()(np.linspace(0, 1, 256))[:, :3] @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(weights) < 0).all()


def test_text_stands_out_on_every_shade():
    for shade in colormap()(np.linspace(0, 1, 256)):
        pair = sorted([float(luminance(shade)), float(luminance(np.array(to_rgb(text_on(shade)))))])
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5
    assert text_on(np.array([1.0, 1, 1])) == "#000000"
    assert text_on(colormap()(1.0)) == "#ffffff"


def test_lines_differ_without_their_colours():
    looks = [series(number) for number in range(35)]
    for one, other in itertools.combinations(looks, 2):
        assert (one.linestyle, one.marker) != (other.linestyle, other.marker)
    for one, following in itertools.pairwise(looks):
        assert one.linestyle != following.linestyle
        assert one.marker != following.marker
    for look in looks:  # dark enough for thin lines on white: 4.5 to 1
        assert 1.05 / (float(luminance(np.array(to_rgb(look.color)))) + 0.05) >= 4.5
