"""What loss scalers do, as rows of data: ``LOSS_POLICIES``.  ``fpemu.scaling.loss`` runs them."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True)
class LossPolicy:
    """A loss scaler.

    Attributes
    ----------
    name, source, note: its name, where its behaviour is laid down, what a user should know.
    init, growth, backoff: the first scale and its factors. interval: good steps until it grows (None: never).
    delay: further good steps before the first growth after an overflow.
    floor, cap: bounds of the scale. at_floor: "clamp"; "raise" (ScalerStopped at an overflow with the scale on the floor);
        "raise before" (at one that would bring it to the floor; the scale stays); or "none".
    hysteresis: overflows until it backs off. refill: when that is restored, "growth" or "good step".
    single: the scale is a float32 tensor, else a Python float. finite_growth: a growth to infinity is left out.
    tolerance: share of the steps since the scale last moved that may overflow before it backs off.
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


SUM = "a gradient whose sum, in float32, is infinite or NaN"
NORM = "a norm of all gradients that is infinite or NaN"

_ROWS = (
    LossPolicy("torch", "pytorch: torch/amp/grad_scaler.py", single=True, finite_growth=True,
               note="No floor: from 2^-128 down the inverse is infinite, and zero is absorbing."),
    LossPolicy("apex", "NVIDIA/apex: apex/amp/scaler.py", cap=2.0**24,
               overflow=f"on a GPU {LossPolicy.overflow}; without its kernels {SUM}",
               note="Its scale_factor is ignored: always 2. At scale 0 it raises ZeroDivisionError, from 1 / scale."),
    LossPolicy("deepspeed", "DeepSpeed: deepspeed/runtime/fp16/loss_scaler.py", 2.0**32, interval=1000, floor=1.0,
               at_floor="raise", overflow=SUM, note="Older versions, the defaults of the class."),
    LossPolicy("deepspeed-config", "DeepSpeed: deepspeed/runtime/fp16/loss_scaler.py, runtime/precision_config.py",
               interval=1000, delay=1, floor=1.0, at_floor="raise", hysteresis=2, overflow=SUM,
               note="Newer versions, defaults of the configuration: grows after window + 1 good steps."),
    LossPolicy("deepspeed-fused", "DeepSpeed: deepspeed/runtime/fp16/fused_optimizer.py", 2.0**32, interval=1000, delay=1,
               floor=1.0, at_floor="clamp", note="FP16_Optimizer without dynamic_loss_args: grows after window + 1 good steps."),
    LossPolicy("megatron", "NVIDIA/Megatron-LM: megatron/core/optimizer/grad_scaler.py, optimizer_config.py", 2.0**32,
               interval=1000, floor=1.0, at_floor="clamp", hysteresis=2, single=True,
               note="Hysteresis is restored by growth alone; growth can reach infinity."),
    LossPolicy("megatron-consecutive", "NVIDIA/Megatron-LM: the docstring of DynamicGradScaler", 2.0**32, interval=1000,
               floor=1.0, at_floor="clamp", hysteresis=2, refill="good step", single=True,
               note="What its docstring says, overflows \"in a row\": every good step restores hysteresis. So does apex's "
                    "csrc/update_scale_hysteresis.cu, without a floor and with finite growth: override both."),
    LossPolicy("fairseq", "fairseq: fairseq/optim/dynamic_loss_scaler.py", 2.0**15, floor=1e-4, at_floor="raise before", overflow=NORM,
               note="At or below the floor: FloatingPointError, the scale stays."),
    LossPolicy("fairseq-trainer", "fairseq: fairseq/dataclass/configs.py, optim/fp16_optimizer.py", 2.0**7,
               interval=2**14, floor=1e-4, at_floor="raise before", overflow=NORM,
               note="The interval is 2^14 over workers and update frequency; here 1 of each."),
    LossPolicy("jmp", "google-deepmind/jmp: jmp/_src/loss_scale.py", 2.0**15, floor=1.0, at_floor="clamp", single=True,
               finite_growth=True, note="The first scale is the user's; 2^15 is its example. A floor of the user's is "
               "lost when JAX takes the scaler apart (tree_flatten): 1 again."),
    LossPolicy("tensorflow", "keras-team/keras before 3: keras/mixed_precision/loss_scale_optimizer.py", 2.0**15,
               floor=1.0, at_floor="clamp", single=True, finite_growth=True),
    LossPolicy("keras3", "keras-team/keras: keras/src/optimizers/loss_scale_optimizer.py", 2.0**15, single=True,
               note="No floor, and growth can reach infinity. It divides by the scale and has no inverse to overflow."),
    LossPolicy("logmax", "NVIDIA/OpenSeq2Seq: open_seq2seq/optimizers/automatic_loss_scaler.py", 1.0, cap=2.0**24,
               interval=None, log_max=True, floor=1.0, single=True, note="2^(16 - (mean + 3.09 deviations)) of log2 amax."),
    LossPolicy("static", "any", interval=None, backoff=1.0, note="The scale never moves."),
    LossPolicy("nvidia-guide", "NVIDIA: Training with Mixed Precision, user's guide", 2.0**24, verified=False,
               note="Advice, not code; 2^24 is as quoted."),
    LossPolicy("nnabla", "nnabla: documentation of mixed precision training", 8.0),
)  # fmt: skip
LOSS_POLICIES = {row.name: row for row in _ROWS}
