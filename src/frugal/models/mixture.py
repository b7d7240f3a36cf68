"""A distribution whose score is known exactly: a mixture of normal ones under growing noise, and the paths that lead back."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mixture:
    """A mixture of normal distributions on the line; noise of standard deviation sigma is added to its samples.

    All of what a network has to learn is known here in closed form: x = x_0 + sigma * noise has the same mixture with
    variances spread^2 + sigma^2 (Karras et al., arXiv 2206.00364, section 2).
    """

    means: tuple[float, ...] = (-1.0, 0.25, 1.0)
    shares: tuple[float, ...] = (0.4, 0.2, 0.4)
    spread: float = 0.06

    def __post_init__(self):
        if len(self.means) != len(self.shares) or not np.isclose(sum(self.shares), 1) or min(self.shares) <= 0:
            raise ValueError(f"shares: got {self.shares}, allowed is one positive share a mean, 1 in all")
        if not self.spread > 0:
            raise ValueError(f"spread: got {self.spread}, allowed is any number above 0")

    def _parts(self, x, sigma) -> tuple[np.ndarray, ...]:
        x, variance = np.asarray(x, dtype=float)[..., None], self.spread**2 + np.asarray(sigma, dtype=float) ** 2
        variance = variance[..., None] if np.ndim(variance) else variance
        away = np.asarray(self.means) - x
        return away, variance, np.log(self.shares) - away**2 / (2 * variance) - np.log(2 * np.pi * variance) / 2

    def density(self, x, sigma) -> np.ndarray:
        """p(x; sigma), of x's shape."""
        return np.exp(self._parts(x, sigma)[2]).sum(-1)

    def score(self, x, sigma) -> np.ndarray:
        """The gradient of log p(x; sigma), of x's shape."""
        away, variance, logs = self._parts(x, sigma)
        weights = np.exp(logs - logs.max(-1, keepdims=True))
        return (weights / weights.sum(-1, keepdims=True) * away / variance).sum(-1)

    def clean(self, x, sigma) -> np.ndarray:
        """E[x_0 | x], what the best network answers: x + sigma^2 score (Tweedie's formula)."""
        return np.asarray(x, dtype=float) + np.asarray(sigma, dtype=float) ** 2 * self.score(x, sigma)

    def path(self, x, sigmas) -> np.ndarray:
        """Solutions of dx / dsigma = -sigma score (the probability flow) from x [n] at sigmas[0]: [len(sigmas), n].

        `sigmas` rise or fall; raises RuntimeError where the solver gives up.
        """
        from scipy.integrate import solve_ivp

        sigmas = np.asarray(sigmas, dtype=float)
        slope = lambda sigma, x: -sigma * self.score(x, sigma)
        ends = (sigmas[0], sigmas[-1])
        found = solve_ivp(slope, ends, np.asarray(x, dtype=float), t_eval=sigmas, rtol=1e-8, atol=1e-9, method="LSODA")
        if not found.success:
            raise RuntimeError(found.message)
        return found.y.T

    def origin(self, x, sigma: float, end: float = 0.002) -> np.ndarray:
        """Where the path through x [n] at sigma begins, at the end of the data: the consistency function (arXiv 2303.01469)."""
        return self.path(x, (sigma, end))[-1]
