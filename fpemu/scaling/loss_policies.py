"""What loss scalers do, as rows of data: ``LOSS_POLICIES``.  ``fpemu.scaling.loss`` runs them."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from fpemu.scaling.loss_settings import check_settings

FLOAT32_MAX, FLOAT32_TINY = 2.0**128 - 2.0**104, 2.0**-126


@dataclass(frozen=True)
class LossPolicy:
    """A loss scaler.  Its settings are checked (``fpemu.scaling.loss_settings``): TypeError or ValueError says what is valid.

    Attributes
    ----------
    name, source, note: its name, where its behaviour is laid down, what a user should know. version: which one was read there.
    init, growth, backoff: the first scale and its factors. interval: good steps until it grows (None: never).
    delay: further good steps before the first growth after an overflow; with ``delays_always`` before every growth.
    floor, cap: bounds of the scale. caps_first: the first scale too is at most the cap.
    at_floor: "clamp"; "keep" (the scale stays where it would come below the floor); "raise" (ScalerStopped at an overflow with
        the scale on the floor); "raise before" (at one that would bring it to the floor; the scale stays); or "none".
    hysteresis: overflows until it backs off. refill: when that is restored, "growth", "good step", or "good step or backoff".
    single: the scale is a float32 tensor, else a Python float. single_factors: so are growth and backoff.
    finite_growth: a growth to infinity is left out.
    tolerance: share of the steps since the scale last moved that may overflow before it backs off.
    stretches: the interval is multiplied by growth and backoff (a whole number then, at least 1) whenever the scale is.
    logarithm: log2 of the scale is what is kept, and growth and backoff are added to it.
    divides_by: "used", the scale that the loss was multiplied by, or "next", the one after this step's growth.
    log_max: the scale follows the statistics of log2(amax) instead.
    overflow: what counts as one. ``simulate`` knows only amax, for which all of these are the same.
    verified: whether all of its numbers were read in its source; else some are as commonly quoted.
    """

    name: str
    source: str
    init: float = 2.0**16
    growth: float = 2.0
    backoff: float = 0.5
    interval: int | None = 2000
    delay: int = 0
    floor: float = 0.0
    cap: float = inf
    at_floor: str = "none"
    hysteresis: int = 1
    refill: str = "growth"
    single: bool = False
    finite_growth: bool = False
    tolerance: float = 0.0
    log_max: bool = False
    overflow: str = "a gradient that is infinite or NaN"
    verified: bool = True
    note: str = ""
    version: str = ""
    delays_always: bool = False
    caps_first: bool = False
    single_factors: bool = False
    stretches: bool = False
    logarithm: bool = False
    divides_by: str = "used"

    def __post_init__(self) -> None:
        check_settings(self)


SUM = "a gradient whose sum, in float32, is infinite or NaN"
SUM_THEN_EACH = f"{SUM} (until 0.13), {LossPolicy.overflow} (from 0.14)"
NORM = "a norm of all gradients that is infinite or NaN"
_DEEPSPEED = "DeepSpeed: deepspeed/runtime/fp16/loss_scaler.py"
_NEXT = "A step at which it grows divides its gradient by the scale after that: an update of half the size, unless it is clipped."

_ROWS = (
    LossPolicy("torch", "pytorch: torch/amp/grad_scaler.py, aten/src/ATen/native/cuda/AmpKernels.cu", single=True,
               finite_growth=True, version="2.13, run beside it in the tests; sources at 0202916b and 0050de58",
               note="No floor: from 2^-128 down the inverse is infinite, and zero is absorbing."),
    LossPolicy("apex", "NVIDIA/apex: apex/amp/scaler.py", cap=2.0**24, caps_first=True, version="e13873de (2025-04), the last that has it",
               overflow=f"on a GPU {LossPolicy.overflow}; without its kernels {SUM}",
               note="Its scale_factor is ignored: always 2. At scale 0 it raises ZeroDivisionError, from 1 / scale. The first scale is "
               "min(2^16, max_loss_scale): runs with a cap of 512 begin there. With min_loss_scale it clamps: at_floor=\"clamp\"."),
    LossPolicy("deepspeed", _DEEPSPEED, 2.0**32, interval=1000, floor=1.0,
               at_floor="raise", overflow=SUM_THEN_EACH, divides_by="next", version="0.6.5 to 0.17.0",
               note=f"The defaults of the class, which no configuration gives. {_NEXT} Until 0.6.4 it clamps at the floor."),
    LossPolicy("deepspeed-config", f"{_DEEPSPEED}, runtime/precision_config.py", interval=1000, delay=1, floor=1.0,
               at_floor="raise", hysteresis=2, divides_by="next", version="0.17.1, 0.17.2, 0.17.6, 0.18.0, 0.19.6",
               note=f"ZeRO from 0.17.1 on, defaults of the configuration: grows after window + 1 good steps. {_NEXT} "
               "consecutive_hysteresis is refill=\"good step\"."),
    LossPolicy("deepspeed-config-0.8", f"{_DEEPSPEED}, runtime/constants.py", interval=1000, floor=1.0,
               at_floor="raise", hysteresis=2, overflow=SUM_THEN_EACH, divides_by="next",
               version="0.8.0, 0.9.0, 0.12.6, 0.13.1, 0.14.0, 0.15.1, 0.16.2, 0.17.0",
               note=f"ZeRO from 0.8.0 to 0.17.0, defaults of the configuration: what was run for years. {_NEXT}"),
    LossPolicy("deepspeed-config-0.6.5", f"{_DEEPSPEED}, runtime/constants.py", 2.0**32, interval=1000, floor=1.0,
               at_floor="raise", hysteresis=2, overflow=SUM, divides_by="next", version="0.6.5, 0.7.0, 0.7.7",
               note=f"ZeRO from 0.6.5 to 0.7.7, defaults of the configuration: the first that raises at the floor. {_NEXT}"),
    LossPolicy("deepspeed-config-0.3", f"{_DEEPSPEED}, runtime/constants.py", 2.0**32, interval=1000, floor=1.0,
               at_floor="clamp", hysteresis=2, overflow=SUM, divides_by="next", version="0.3.0, 0.4.0, 0.5.0, 0.5.8, 0.6.0, 0.6.4",
               note=f"ZeRO from 0.3.0 to 0.6.4, defaults of the configuration: clamps at the floor, and never stops. {_NEXT}"),
    LossPolicy("deepspeed-fused", "DeepSpeed: deepspeed/runtime/fp16/fused_optimizer.py", 2.0**32, interval=1000, delay=1,
               floor=1.0, at_floor="clamp", overflow=SUM, divides_by="next", version="0.3.0, 0.5.8, 0.6.5, 0.9.0, 0.15.1, 0.19.6",
               note="FP16_Optimizer without dynamic_loss_args: grows after window + 1 good steps. A hysteresis of the configuration is "
               f"ignored. {_NEXT}"),
    LossPolicy("deepspeed-unfused", "DeepSpeed: deepspeed/runtime/fp16/unfused_optimizer.py", interval=1000, delay=1,
               floor=0.25, at_floor="clamp", overflow=SUM, divides_by="next", version="0.3.0, 0.5.8, 0.6.5, 0.9.0, 0.15.1, 0.19.6",
               note="FP16_UnfusedOptimizer (LAMB) without dynamic_loss_args: its scale may fall below 1. A hysteresis of the "
               f"configuration is ignored. {_NEXT}"),
    LossPolicy("megatron", "NVIDIA/Megatron-LM: megatron/core/optimizer/grad_scaler.py, optimizer_config.py", 2.0**32,
               interval=1000, floor=1.0, at_floor="clamp", hysteresis=2, single=True, single_factors=True,
               version="00caa53a (2024), d98e8a64 (2026-08)",
               note="Hysteresis is restored by growth alone, whatever its docstring says, and so do runs on GPUs: once it is spent, a "
               "lone overflow lowers the scale. Growth can reach infinity."),
    LossPolicy("megatron-consecutive", "NVIDIA/Megatron-LM: the docstring of DynamicGradScaler", 2.0**32, interval=1000,
               floor=1.0, at_floor="clamp", hysteresis=2, refill="good step", single=True, single_factors=True,
               version="00caa53a (2024), d98e8a64 (2026-08)",
               note="What its docstring says, overflows \"in a row\": every good step restores hysteresis. Its code does not, and runs on "
               "GPUs contradict it. apex's csrc/update_scale_hysteresis.cu (6424da3b, 2026-07) does, without a floor, with finite growth "
               "and float64 factors: override these."),
    LossPolicy("fairseq", "fairseq: fairseq/optim/dynamic_loss_scaler.py", 2.0**15, floor=1e-4, at_floor="raise before", overflow=NORM,
               version="3d262bb2 (2025-09)", note="At or below the floor: FloatingPointError, the scale stays."),
    LossPolicy("fairseq-trainer", "fairseq: fairseq/dataclass/configs.py, optim/fp16_optimizer.py", 2.0**7,
               interval=2**14, floor=1e-4, at_floor="raise before", overflow=NORM, version="3d262bb2 (2025-09)",
               note="The interval is 2^14 over workers and update frequency; here 1 of each."),
    LossPolicy("metaseq", "facebookresearch/metaseq: metaseq/optim/dynamic_loss_scaler.py, dataclass/configs.py", 4.0, interval=256,
               floor=2.0**-5, at_floor="keep", stretches=True, overflow=NORM, version="f7ffa5f (2023-06)",
               note="OPT's. The interval doubles and halves with the scale, at the floor too, where the scale stays; an overflow never "
               "stops it. threshold_loss_scale is a floor that clamps."),
    LossPolicy("nvidia-gnmt", "NVIDIA/DeepLearningExamples: PyTorch/Translation/GNMT/seq2seq/train/fp_optimizers.py", 2.0**13,
               interval=128, cap=2.0**13, overflow=NORM, version="072523d5",
               note="Its own Fp16Optimizer. The cap is a constant that a larger first scale meets only when it first grows, downwards. "
               "MLPerf's runs begin at 2^13 or 2^10."),
    LossPolicy("guided-diffusion", "openai/guided-diffusion: guided_diffusion/fp16_util.py", 2.0**20, growth=1e-3, backoff=-1.0,
               interval=1, logarithm=True, overflow=NORM, version="22e0df81 (2022-07)",
               note="No window: 2^0.001 at every good step, so that 1,000 of them make up for an overflow. Sums of 0.001 round: a product of "
               "factors gives other scales. The original raises OverflowError at 2^1024, here the scale is infinite."),
    LossPolicy("flax", "google/flax: flax/training/dynamic_scale.py", delay=1, delays_always=True, floor=FLOAT32_TINY, cap=FLOAT32_MAX,
               at_floor="clamp", single=True, single_factors=True, version="0.12.8 (18f8f311, 2026-07)",
               overflow="a gradient, divided by the scale in float32, that is infinite or NaN",
               note="Its interval counts one short: it grows at every 2,001st good step. It divides by the scale and has no inverse to "
               "overflow. Before minimum_scale it has no floor."),
    LossPolicy("jmp", "google-deepmind/jmp: jmp/_src/loss_scale.py", 2.0**15, floor=1.0, at_floor="clamp", single=True,
               single_factors=True, finite_growth=True, version="107217e5 (2023-01)",
               note="The first scale is the user's; 2^15 is its example. A floor of the user's is lost when JAX takes the scaler apart "
               "(tree_flatten): 1 again. It divides by its factor, which differs from a product where that is no power of two."),
    LossPolicy("tensorflow", "keras-team/keras before 3: keras/mixed_precision/loss_scale_optimizer.py", 2.0**15,
               floor=1.0, at_floor="clamp", single=True, single_factors=True, finite_growth=True, version="2.15.0"),
    LossPolicy("keras3", "keras-team/keras: keras/src/optimizers/loss_scale_optimizer.py", 2.0**15, single=True, single_factors=True,
               version="3.16.0 (3422977a, 2026-08)",
               note="No floor, and growth can reach infinity. It divides by the scale and has no inverse to overflow."),
    LossPolicy("paddle", "PaddlePaddle/Paddle: python/paddle/amp/grad_scaler.py", single=True, single_factors=True,
               refill="good step or backoff", version="00816fcb (2.5 or later), 1bfb3e09 (2.2)",
               note="GradScaler of dynamic graphs: no floor, and growth can reach infinity. Until 2.4 its defaults are 2^15, 1000 and a "
               "hysteresis of 2; AmpScaler's are 2^15 and 1000."),
    LossPolicy("paddle-static", "PaddlePaddle/Paddle: python/paddle/static/amp/decorator.py, paddle/phi/kernels/impl/amp_kernel_impl.h", 2.0**15,
               backoff=0.8, interval=1000, floor=1.0, at_floor="clamp", hysteresis=2, refill="good step or backoff", single=True,
               single_factors=True, finite_growth=True, version="01e3d7c7, kernel 20ffb9f4",
               note="The decorate of static graphs for FP16 alone; the one that takes level and dtype begins at 2^16, with 2000, 0.5 and a "
               "hysteresis of 1."),
    LossPolicy("logmax", "NVIDIA/OpenSeq2Seq: open_seq2seq/optimizers/automatic_loss_scaler.py", 1.0, cap=2.0**24,
               interval=None, log_max=True, floor=1.0, single=True, version="18.10; 8681d381 (2020-09)",
               note="2^(16 - (mean + 3.09 deviations)) of log2 amax. The cap is that of the releases; since July 2018 it is 2^14."),
    LossPolicy("static", "any", interval=None, backoff=1.0, version="any", note="The scale never moves."),
    LossPolicy("nvidia-guide", "NVIDIA: Training with Mixed Precision, user's guide", 2.0**24, verified=False,
               version="as quoted by others", note="Advice, not code; 2^24 is as quoted."),
    LossPolicy("nnabla", "nnabla: documentation of mixed precision training", 8.0, version="documentation of 1.39.0; source at 355106b6",
               note="As documented. The source that was read, of an early version, waits for N + 1 further steps, and repeats the step that "
               "overflowed."),
)  # fmt: skip
LOSS_POLICIES = {row.name: row for row in _ROWS}
