"""The lab's networks in PyTorch, run as its users run them: autograd, torch.autocast, GradScaler, torch.optim.

Only here is torch imported.  Every layer says in torch what ``analysis.training.layers`` says in NumPy; the parameters are
the same arrays.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from analysis.gpu.histograms import histogram
from analysis.gpu.training_tasks import GROWTH, KEPT, Keys, Mode, Task
from analysis.training import layers
from analysis.training.optimizers import Rule
from analysis.training.trainer import Plan

Tensor = Any  # a torch.Tensor
Hook = Callable[[str, Tensor], None]


class Unsupported(Exception):
    """This device cannot run a mode; one line."""


# ---- the forward pass -----------------------------------------------------------------------------------------------
class Forward:
    """Runs layers on torch tensors; ``hook`` is called with the name and the output of every linear layer."""

    def __init__(self, parameters: dict[str, Tensor], mode: Mode, hook: Hook) -> None:
        self.p, self.mode, self.hook = parameters, mode, hook

    def __call__(self, layer: Any, x: Tensor) -> Tensor:
        """The output of a layer.  Raises TypeError for one that is not said here."""
        run = getattr(self, f"_{type(layer).__name__.lower()}", None)
        if run is None:
            raise TypeError(f"{type(layer).__name__} is not recorded")
        result: Tensor = run(layer, x)
        return result

    def _chain(self, layer: layers.Chain, x: Tensor) -> Tensor:
        for one in layer.layers:
            x = self(one, x)
        return x

    def _residual(self, layer: layers.Residual, x: Tensor) -> Tensor:
        return x + self(layer.inner, x)

    def _linear(self, layer: layers.Linear, x: Tensor) -> Tensor:
        weight = self.p[f"{layer.name}.weight"].t() if layer.tied is None else self.p[layer.tied]
        bias = self.p[f"{layer.name}.bias"] if layer.bias else None
        if self.mode.fp8 and self.mode.recipe.operand("weight", layer.name).format != self.mode.recipe.kept:
            y = ScaledLinear.apply(x, weight, bias)
        else:
            y = F.linear(x, weight, bias)
        self.hook(layer.name, y)
        return y

    def _relu(self, layer: Any, x: Tensor) -> Tensor:
        return F.relu(x)

    def _gelu(self, layer: Any, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")

    def _layernorm(self, layer: layers.LayerNorm, x: Tensor) -> Tensor:
        gain, bias = self.p[f"{layer.name}.gain"], self.p[f"{layer.name}.bias"]
        return F.layer_norm(x.float(), (layer.width,), gain, bias, layer.epsilon)

    def _embedding(self, layer: layers.Embedding, x: Tensor) -> Tensor:
        return F.embedding(x, self.p[f"{layer.name}.tokens"]) + self.p[f"{layer.name}.positions"][: x.shape[1]]

    def _attention(self, layer: layers.Attention, x: Tensor) -> Tensor:
        inputs, output = layer.maps
        batch, time_, _ = x.shape
        joined = self._linear(inputs, x).reshape(batch, time_, 3, layer.heads, -1)
        query, key, value = joined.permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-1, -2) * (1 / sqrt(query.shape[-1]))
        future = torch.ones(time_, time_, dtype=torch.bool, device=x.device).triu(1)
        weights = scores.float().masked_fill(future, float("-inf")).softmax(-1)
        mixed = (weights @ value).transpose(1, 2).reshape(batch, time_, -1)
        return self._linear(output, mixed)


class ScaledLinear(torch.autograd.Function):  # type: ignore[misc]
    """y = x W' + b with per-tensor scaled FP8 products: E4M3 forward, E5M2 output gradients, BF16 results."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        ctx.save_for_backward(rows, weight)
        ctx.shape, ctx.bias = x.shape, bias is not None
        y = _scaled_product(rows, torch.float8_e4m3fn, weight.t(), torch.float8_e4m3fn, fast=True)
        if bias is not None:
            y = y + bias.to(torch.bfloat16)
        return y.to(torch.bfloat16).reshape(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        dy = gradients[0].reshape(-1, gradients[0].shape[-1])
        dx = _scaled_product(dy, torch.float8_e5m2, weight, torch.float8_e4m3fn)
        dw = _scaled_product(dy.t(), torch.float8_e5m2, rows, torch.float8_e4m3fn)
        bias = dy.float().sum(0) if ctx.bias else None
        return dx.to(torch.bfloat16).reshape(ctx.shape), dw.float(), bias


def _scaled_product(a: Tensor, a_type: torch.dtype, b: Tensor, b_type: torch.dtype, fast: bool = False) -> Tensor:
    """a (M, K) times b (K, N) in float32, operands scaled by their own amax; Unsupported where the device refuses."""

    def scaled(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        largest, amax = torch.finfo(dtype).max, x.detach().abs().max().float()
        scale = torch.where((amax > 0) & torch.isfinite(amax), largest / amax, torch.ones_like(amax))
        return (x.float() * scale).clamp(-largest, largest).to(dtype), (1 / scale).float()

    (left, left_inverse), (right, right_inverse) = scaled(a, a_type), scaled(b, b_type)
    try:
        product = torch._scaled_mm(
            left.contiguous(), right.t().contiguous().t(), left_inverse, right_inverse,
            out_dtype=torch.bfloat16, use_fast_accum=fast,
        )  # fmt: skip
    except (RuntimeError, NotImplementedError, ValueError) as error:
        raise Unsupported(f"torch._scaled_mm: {str(error).splitlines()[0]}") from None
    return product


# ---- a run ----------------------------------------------------------------------------------------------------------
def run(task: Task, mode: Mode, keys: Keys, device: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train a task; what is recorded of it, as arrays and as facts.

    Raises Unsupported where the device cannot run the mode.
    """
    if mode.fp8 and device == "cpu":
        raise Unsupported("torch._scaled_mm on a CPU takes seconds a step")
    trainer = _Trainer(task, mode, device)
    for step, key in enumerate(keys):
        trainer.step(step, key)
    return trainer.recorded()


class _Trainer:
    def __init__(self, task: Task, mode: Mode, device: str) -> None:
        self.task, self.mode, self.device = task, mode, torch.device(device)
        torch.backends.cuda.matmul.allow_tf32 = False
        initial = task.network().initialise(task.seed)
        self.parameters = {
            name: torch.tensor(value, device=device, requires_grad=True) for name, value in initial.items()
        }
        self.network = task.network()
        self.optimizer = _optimizer(task.rule, list(self.parameters.values()))
        self.scaler = torch.amp.GradScaler(self.device.type, growth_interval=GROWTH, enabled=mode.scaled)
        self.plan = Plan(task.rule, task.steps, warmup=task.warmup)
        self.rows: list[tuple[float, float, bool, float, float]] = []
        self.arrays: dict[str, Any] = {}
        self.capturing: int | None = None
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def step(self, step: int, key: Any) -> None:
        x, targets = (
            torch.as_tensor(np.ascontiguousarray(value), device=self.device) for value in self.task.batch(key)
        )
        self.capturing = step if step in self.task.captured else None
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rate(step)
        self._wait()
        clock = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        dtype = None if self.mode.autocast is None else getattr(torch, self.mode.autocast)
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            logits = Forward(self.parameters, self.mode, self._hooked)(self.network.body, x)
        loss = F.cross_entropy(logits.float().flatten(0, -2), targets.flatten())
        scale = self.scaler.get_scale()
        self.scaler.scale(loss).backward()
        for name, value in self.parameters.items():
            self._keep("weight", name, value.grad)
        self.scaler.unscale_(self.optimizer)
        amax = torch.stack(
            [value.grad.abs().max() for value in self.parameters.values() if value.grad is not None]
        ).max()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._wait()
        skipped = self.mode.scaled and not bool(torch.isfinite(amax))
        self.rows.append((float(loss.detach()), scale, skipped, float(amax), time.perf_counter() - clock))

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _hooked(self, name: str, y: Tensor) -> None:
        if self.capturing is not None and y.requires_grad:
            y.register_hook(lambda g: self._keep("gradient", name, g))

    def _keep(self, role: str, name: str, g: Tensor | None) -> None:
        """The histogram of a gradient as it is held, scaled, and its first elements."""
        if self.capturing is None or g is None:
            return
        values = g.detach().float().cpu().numpy()
        where = f"{self.capturing}/{role}/{name}"
        self.arrays[f"histogram/{where}"] = histogram(values)
        self.arrays[f"values/{where}"] = values.reshape(-1)[:KEPT].copy()

    def recorded(self) -> tuple[dict[str, Any], dict[str, Any]]:
        loss, scale, skipped, amax, seconds = (np.array(column) for column in zip(*self.rows, strict=True))
        arrays = {
            "loss": loss.astype(np.float64), "scale": scale.astype(np.float64), "skipped": skipped.astype(np.bool_),
            "amax": amax.astype(np.float64), **self.arrays,
        }  # fmt: skip
        quiet = [s for step, s in enumerate(seconds) if step not in self.task.captured and step >= 10]
        cuda = self.device.type == "cuda"
        return arrays, {
            "step_ms": round(float(np.median(quiet or seconds)) * 1e3, 4),
            "peak_memory_bytes": int(torch.cuda.max_memory_allocated()) if cuda else None,
            "skipped": int(skipped.sum()),
            "final_loss": float(np.mean(loss[-20:])) if np.isfinite(loss[-20:]).all() else None,
        }


def _optimizer(rule: Rule, values: list[Tensor]) -> torch.optim.Optimizer:
    if rule.kind == "sgd":
        return torch.optim.SGD(values, rule.rate, rule.momentum)
    return torch.optim.AdamW(values, rule.rate, rule.betas, rule.epsilon, weight_decay=rule.decay)
