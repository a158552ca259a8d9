"""What seeds and what test images contribute to the uncertainty of a number; its interval.

A number T is the mean over S seeds of a metric on N test images. Two things could have been others:
the seeds and the images. Let D[b, s] be the metric (or the paired difference of two rows) of seed s
on resample b of the test part, the same resample for every seed, and d[s] that on the test part.

    sampling = correction * var over b of mean over s of D[b, s]       seeds kept, images drawn
    seeds = (sample variance over s of d[s]) / S                       images kept, seeds drawn
    both = correction * mean over b of (sample variance over s of D[b, s] - d[s]) / S

What differs from seed to seed and from image to image is in the first and in the second; `both` is
that part. So the variance of T is estimated by

    max(seeds + sampling - both, sampling)

A bootstrap that draws seeds and images at once has the variance sampling + (S - 1) / S * (seeds +
both), of which the resampling of seeds needs no random numbers, T being a mean over them. It counts
that part three times (McCarthy 1969; Owen, The Pigeonhole Bootstrap, Annals of Applied Statistics 1
(2007), 386-411), which hides differences between similar methods, whose errors differ from seed to
seed more than by method; with few seeds its (S - 1) / S also makes the seeds' part too small.

The interval is T +- h, with Student's t of each part's own degrees of freedom:

    h^2 = max(t(S - 1)^2 * seeds + t(f)^2 * max(sampling - both, 0), t(f)^2 * sampling)

For a sum of independent normal parts this covers at least as often as it says, whatever the parts'
sizes (Banerjee, Sankhya 22 (1960), 351-358). One common t with degrees of freedom by Satterthwaite,
percentiles, and BCa do not, with five seeds and the small levels that many comparisons need; and a
percentile of 1 in 2000 cannot be read off 2000 resamples. The p-value is the smallest level at
which the interval leaves 0 out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

POWER: Final = 0.8
_SMALLEST_P: Final = 1e-15
_LEAST_SHARE_DEFINED: Final = 0.5


@dataclass(frozen=True)
class Estimate:
    """A number and what is known of its uncertainty.

    Attributes:
        value: the metric, or the difference, in the metric's own unit.
        sampling: variance of drawing test images.
        freedom: degrees of freedom of `sampling`; 0 where the images can tell nothing.
        seeds: (variance, degrees of freedom) of drawing seeds; one pair for paired seeds, two for
            two rows whose seeds are not paired, none for a single seed.
            See `moderation` for those of a table.
        both: the part of `sampling` that is in `seeds` too.
    """

    value: float
    sampling: float
    freedom: float
    seeds: tuple[tuple[float, float], ...] = ()
    both: float = 0.0

    @property
    def images_alone(self) -> float:
        """Variance of drawing images, without what seeds hold too."""
        return max(self.sampling - self.both, 0.0)

    @property
    def standard_error(self) -> float | None:
        """Of both together; None where the test images can tell nothing."""
        total = self.images_alone + sum(variance for variance, _ in self.seeds)
        total = max(total, self.sampling)
        # Where no resample differs, the images are too few to show how much the number varies.
        return math.sqrt(total) if self.freedom > 0 and self.sampling > 0 else None

    def half_width(self, alpha: float) -> float | None:
        """Of the interval that misses with probability `alpha`; None where it cannot be told."""
        from scipy.special import stdtrit

        if self.standard_error is None:
            return None
        of_images = float(stdtrit(self.freedom, alpha / 2)) ** 2
        of_seeds = sum(v * float(stdtrit(freedom, alpha / 2)) ** 2 for v, freedom in self.seeds)
        whole = max(of_seeds + of_images * self.images_alone, of_images * self.sampling)
        return math.sqrt(whole)

    def p_value(self) -> float | None:
        """Two-sided, of the true number being 0; None where it cannot be told."""
        from scipy.optimize import brentq

        if self.standard_error is None:
            return 1.0 if self.value == 0 else None
        size = abs(self.value)

        def too_wide(log_level: float) -> float:
            return (self.half_width(math.exp(log_level)) or 0.0) - size

        lowest = math.log(_SMALLEST_P)
        if size == 0 or too_wide(lowest) < 0:
            return 1.0 if size == 0 else _SMALLEST_P
        return math.exp(float(brentq(too_wide, lowest, 0.0)))

    def detectable(self, alpha: float) -> float | None:
        """The smallest true difference that is found with a probability of 80 %: h + 0.84 SE.

        With many images and no contribution of seeds this is (1.96 + 0.84) SE at 5 %.
        """
        from scipy.special import ndtri

        width, error = self.half_width(alpha), self.standard_error
        return None if width is None or error is None else width + float(ndtri(POWER)) * error

    def minus(self, other: Estimate, sampling: float) -> Estimate:
        """The difference of two rows whose seeds are not paired.

        Args:
            sampling: variance of the difference when images are drawn, the same for both.
        """
        known = self.seeds and other.seeds
        return Estimate(
            self.value - other.value,
            sampling,
            self.freedom,
            self.seeds + other.seeds if known else (),
            self.both + other.both if known else 0.0,
        )


def estimate(values: np.ndarray, draws: np.ndarray, correction: float, freedom: float) -> Estimate:
    """Split the uncertainty of a mean over seeds.

    Args:
        values: d, the metric of each seed on the test part, float64 (S,).
        draws: (1 + B, S): the same first, then D.
        correction: by which a variance from resampling is too small; see `Resamples.reach`.
        freedom: degrees of freedom of that variance.

    Resamples on which the metric is undefined for a seed are left out; where they are most of them,
    nothing is known.
    """
    value, num_seeds = float(values.mean()), len(values)
    kept = ~np.isnan(draws).any(axis=1)
    if not kept[0] or kept.mean() < _LEAST_SHARE_DEFINED:
        return Estimate(value, 0.0, 0.0)
    deviations = draws[kept][1:] - draws[0]
    sampling = correction * float(deviations.mean(axis=1).var())
    if num_seeds == 1:
        return Estimate(value, sampling, freedom)
    seeds = float(values.var(ddof=1)) / num_seeds
    both = correction * float(deviations.var(axis=1, ddof=1).mean()) / num_seeds
    return Estimate(value, sampling, freedom, ((seeds, num_seeds - 1),), both)
