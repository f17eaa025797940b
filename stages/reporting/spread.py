"""Mean and deviation of a metric over seeds or sets of images, and the one formatter of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of a metric; `asdict` of it is the JSON form.

    Attributes:
        mean: None where the metric was not measured.
        std: standard deviation (or any other error of the mean); None for a single value.
        per_seed: the values, in the order of the seeds.
    """

    mean: float | None = None
    std: float | None = None
    per_seed: list[float | None] = field(default_factory=list)

    @classmethod
    def over(cls, values: Sequence[float | None]) -> Spread:
        """Spread of at least one value; the mean is None if any value is."""
        values = list(values)
        if None in values:
            return cls(per_seed=values)
        return cls(fmean(values), stdev(values) if len(values) > 1 else None, values)

    def scaled(self, factor: float) -> Spread:
        """The same metric in other units, without the single values."""
        return Spread(*(None if value is None else factor * value for value in (self.mean, self.std)))

    def text(self, mean: str = ".3g", std: str = ".2g") -> str:
        """`mean ± std`, by these format specifications; `not measured` without a mean."""
        if self.mean is None:
            return "not measured"
        return f"{self.mean:{mean}}" + ("" if self.std is None else f" ± {self.std:{std}}")
