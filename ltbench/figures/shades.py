"""One hue from white to dark in even steps of lightness: without colours the order stays."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from matplotlib.colors import Colormap

__all__ = ["colormap", "luminance", "text_on"]

_DARKEST: Final = (8, 48, 107)
_MIDDLE: Final = (84, 146, 201)
_NUM_SHADES: Final = 256


def luminance(rgb: np.ndarray) -> np.ndarray:
    """Relative luminance Y of sRGB colours, 0 (black) to 1 (white).

    Y = 0.2126 R + 0.7152 G + 0.0722 B of linear components, c / 12.92 below 0.04045, else
    ((c + 0.055) / 1.055)^2.4.

    Args:
        rgb: (..., 3) or (..., 4), in [0, 1]; a fourth component is not looked at.

    Source: IEC 61966-2-1; WCAG 2.2, "relative luminance".
    """
    given = np.asarray(rgb, dtype=np.float64)[..., :3]
    linear = np.where(given <= 0.04045, given / 12.92, ((given + 0.055) / 1.055) ** 2.4)
    return np.asarray(linear @ np.array([0.2126, 0.7152, 0.0722]))


def lightness(rgb: np.ndarray) -> np.ndarray:
    """CIE L* of sRGB colours, 0 to 100: 116 Y^(1/3) - 16 above Y = 0.008856, else 903.3 Y."""
    y = luminance(rgb)
    return np.asarray(np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y))


@lru_cache(maxsize=1)
def colormap() -> Colormap:
    """0 is white, 1 the darkest; L* falls linearly."""
    from matplotlib.colors import ListedColormap

    anchors = np.array([(255, 255, 255), _MIDDLE, _DARKEST]) / 255
    fine = np.linspace(0, 2, 2001)
    path = np.stack([np.interp(fine, range(3), anchors[:, c]) for c in range(3)], axis=1)
    light = lightness(path)
    wanted = np.linspace(light[0], light[-1], _NUM_SHADES)
    at = np.interp(-wanted, -light, fine)
    shades = np.stack([np.interp(at, range(3), anchors[:, c]) for c in range(3)], axis=1)
    return ListedColormap(shades, name="ltbench")


def text_on(rgb: np.ndarray) -> str:
    """Black or white, whichever has the larger contrast on the colour; at least 4.5 to 1."""
    # (Y + 0.05) / 0.05 = 1.05 / (Y + 0.05), both 4.58, at Y = 0.179.
    return "#000000" if float(luminance(rgb)) > 0.179 else "#ffffff"
