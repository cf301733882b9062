"""SGD with momentum, Adam and AdamW, with weights and state in the formats of a recipe.

As fused optimizers do it, a step computes in float32 from what is kept, and what it keeps is rounded once: the
momentum, the second moment, and the weights, to nearest, stochastically, or with a Kahan compensation of the same format
(comp += delta; w' = rn(w + comp); comp = rn(comp + (w - w'))).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite, sqrt

import numpy as np

import fpemu as fp
from analysis.training.draws import UPDATE, draw_seed
from analysis.training.layers import Parameters
from analysis.training.numerics import Array
from analysis.training.recipes import Recipe
from fpemu import pairs
from fpemu.moments import Moments


@dataclass(frozen=True)
class Rule:
    """An optimizer's numbers: ``sgd`` (rate, momentum) or ``adam`` (rate, betas, epsilon, decoupled weight decay: AdamW)."""

    kind: str = "sgd"
    rate: float = 0.05
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    decay: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("sgd", "adam"):
            raise ValueError(f"an optimizer is sgd or adam, not {self.kind!r}")


@dataclass
class Visibility:
    """How much of the updates reached the weights, summed over tensors.

    intended: updates that are not zero; cancelled: those of them that left the weight as it was; squares and the product
    of intended u and effective e.
    """

    intended: int = 0
    cancelled: int = 0
    uu: float = 0.0
    ee: float = 0.0
    ue: float = 0.0

    def add(self, intended: Array, effective: Array) -> None:
        """Count one tensor."""
        moved = intended != 0
        self.intended += int(np.count_nonzero(moved))
        self.cancelled += int(np.count_nonzero(moved & (effective == 0)))
        u, e = intended.astype(np.float64).ravel(), effective.astype(np.float64).ravel()
        self.uu, self.ee, self.ue = self.uu + float(u @ u), self.ee + float(e @ e), self.ue + float(u @ e)

    def __add__(self, other: Visibility) -> Visibility:
        """Two tensors together."""
        return Visibility(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def cancelled_share(self) -> float:
        """Of the updates that are not zero; NaN if all are."""
        return self.cancelled / self.intended if self.intended else float("nan")

    @property
    def cosine(self) -> float:
        """Of intended and effective updates; NaN where either is all zero."""
        return self._moments.cosine

    @property
    def gain(self) -> float:
        """<e, u> / <u, u>: the effective step along the intended one."""
        return self._moments.gain

    @property
    def _moments(self) -> Moments:
        """For the figures they share with ``fpemu.errors``: u is the reference, and neither noise nor bias is asked for."""
        signal, result, product = ((total, 0) for total in (self.uu, self.ee, self.ue))
        return Moments(self.intended, signal, result, product, pairs.ZERO, pairs.ZERO, isfinite(self.uu + self.ee))


@dataclass
class Optimizer:
    """The state of an optimizer under a recipe.  Weights are float32 arrays that hold values of the master format.

    ``seen``: how much of the last step's updates reached each parameter.
    """

    rule: Rule
    recipe: Recipe
    seed: int = 0
    first: Parameters = field(default_factory=dict)
    second: Parameters = field(default_factory=dict)
    compensation: Parameters = field(default_factory=dict)
    steps: int = 0
    seen: dict[str, Visibility] = field(default_factory=dict)

    def start(self, parameters: Parameters) -> Parameters:
        """Parameters as they are kept."""
        return {name: self._kept(self.recipe.master, value) for name, value in parameters.items()}

    def step(self, parameters: Parameters, gradients: Parameters, rate: float | None = None) -> Visibility:
        """Update the parameters in place; ``rate`` instead of the rule's, for schedules."""
        self.steps += 1
        with np.errstate(all="ignore"):
            for place, (name, value) in enumerate(parameters.items()):
                delta = self._delta(name, value, gradients[name], self.rule.rate if rate is None else rate)
                new = self._updated(name, value, delta, place)
                self.seen[name] = Visibility()
                self.seen[name].add(delta, new - value)
                parameters[name] = new
        return sum(self.seen.values(), Visibility())

    def _delta(self, name: str, w: Array, g: Array, rate: float) -> Array:
        rule, one = self.rule, w.dtype.type
        zero: Array = np.zeros_like(w)
        m: Array
        v: Array
        if rule.kind == "sgd":
            self.first[name] = self._kept(self.recipe.momentum, one(rule.momentum) * self.first.get(name, zero) + g)
            return -one(rate) * self.first[name]
        beta1, beta2 = rule.betas
        m = one(beta1) * self.first.get(name, zero) + one(1 - beta1) * g
        v = one(beta2) * self.second.get(name, zero) + one(1 - beta2) * g * g
        self.first[name], self.second[name] = m, v = (
            self._kept(self.recipe.momentum, m),
            self._kept(self.recipe.second_moment, v),
        )
        root = np.sqrt(v) / one(sqrt(1 - beta2**self.steps))
        step = -one(rate / (1 - beta1**self.steps)) * m / (root + one(rule.epsilon))
        return step - one(rate * rule.decay) * w if rule.decay and w.ndim > 1 else step

    def _updated(self, name: str, w: Array, delta: Array, place: int) -> Array:
        master = self.recipe.master
        if master is None or w.dtype == np.float64:
            return w + delta
        if self.recipe.update == "stochastic":
            draw = draw_seed(self.seed, UPDATE, self.steps, place)
            return fp.quantize(w + delta, master, rounding="stochastic", seed=draw)
        if self.recipe.update == "nearest-even":
            return fp.quantize(w + delta, master)
        compensation = self.compensation.get(name, np.zeros_like(w)) + delta
        new = fp.quantize(w + compensation, master)
        self.compensation[name] = fp.quantize(compensation + (w - new), master)
        return new

    @staticmethod
    def _kept(format: str | None, x: Array) -> Array:
        return x if format is None or x.dtype == np.float64 else fp.quantize(x, format)
