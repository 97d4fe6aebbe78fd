"""What every training stage shares: optimisers, schedule, averaging, checkpoints, progress."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from llicm_cli.errors import InputError, OutputError, UsageError
from llicm_cli.models.blocks import Pointwise

WARM_UP_STEPS = 100
SMOOTHED = 0.1  # share of every look in the figures of the log
LOOK_EVERY = 8  # steps between looks at the figures for the log: on a GPU each is a wait
RGB_CHANNELS = 3
BLOCK = re.compile(r"((fine|middle|coarse)(_in|_out)?|post_filter\.body)\.\d")  # names of residual blocks


Loss = Callable[[nn.Module, float], tuple[Tensor, dict[str, Tensor]]]
"""Given the model and the done share (0..1), returns (loss, figures for the log), all of them scalars."""


@dataclass(frozen=True)
class Budget:
    """How long to train: a number of steps or of minutes, whichever is given."""

    steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise UsageError("give either --steps or --minutes")

    def progress(self, step: int, seconds: float) -> float:
        """Done share, 0..1 (more than 1 after the end)."""
        if self.steps is not None:
            return step / self.steps
        assert self.minutes is not None
        return seconds / (60 * self.minutes)


@dataclass(frozen=True)
class Options:
    """What a user may choose about a run; every stage takes these."""

    budget: Budget
    device: torch.device
    checkpoint: Path
    resume: bool
    seed: int
    batch: int
    muon_rate: float
    adam_rate: float
    ema_decay: float
    save_every: float  # minutes
    workers: int  # processes that make degraded pictures; 0: the training process does
    report: Callable[[str], None]
    tick: Callable[[float, str], None]


def learning_rate_factor(step: int, progress: float) -> float:
    """Linear warm-up, then linearly to zero (Bergsma et al., ICLR 2025)."""
    return min(1.0, (step + 1) / WARM_UP_STEPS, max(0.0, 1 - progress))


def train_only(model: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
    """Freeze all of a model but these parameters of it."""
    model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)


def take_over(model: nn.Module, known: nn.Module) -> None:
    """Give a model the weights of another one. Residual blocks beyond those of the other stay as they began,
    without effect, so that a model may grow between two runs.

    Raises:
        UsageError: the networks are of other sizes.
    """
    try:
        missing, unknown = model.load_state_dict(known.state_dict(), strict=False)
        fits = not unknown and all(BLOCK.search(name) for name in missing)
    except RuntimeError:  # other shapes
        fits = False
    if not fits:
        raise UsageError("the networks to start from do not fit into this program's")


def meet(model: nn.Module, others: list[nn.Module]) -> None:
    """Move a model's weights to the mean of its own and those of others that began where it began: what every
    run won is mostly kept, what they scatter by is less (Wortsman et al., ICML 2022).

    Raises:
        UsageError: the networks are of other sizes.
    """
    sizes = [{name: value.shape for name, value in m.state_dict().items()} for m in (model, *others)]
    if any(other != sizes[0] for other in sizes[1:]):
        raise UsageError("the networks to take the mean of are of other sizes")
    mean = AveragedModel(model)
    for m in (model, *others):
        mean.update_parameters(m)
    model.load_state_dict(mean.module.state_dict())


def _is_dense(layer: nn.Module) -> bool:
    """Whether every channel feeds every other one; not counted are convolutions of a picture's colours."""
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and layer.in_channels > RGB_CHANNELS
    return isinstance(layer, Pointwise | nn.Linear)


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al., 2024): Nesterov momentum, made orthogonal by five Newton-Schulz steps.

    ``torch.optim.Muon`` with ``weight_decay=0``, to the bit, but kernels of one size go through those steps
    together: on a GPU hundreds of small products cost more time to start than to do. A kernel (out, in, rows,
    columns) of a convolution counts as the matrix (out, in * rows * columns).

    As in torch's fused optimisers, nothing moves in a step for which the attribute ``found_inf`` is not zero,
    a tensor, so that no GPU has to be waited for.
    """

    MOMENTUM = 0.95
    COEFFICIENTS = (3.4445, -4.7750, 2.0315)
    STEPS = 5
    FLOOR = 1e-7

    def __init__(self, kernels: list[nn.Parameter], lr: float) -> None:
        super().__init__(kernels, {"lr": lr})
        self.found_inf = torch.zeros(())
        self.sizes: dict[torch.Size, list[nn.Parameter]] = {}
        for kernel in kernels:
            self.sizes.setdefault(kernel.shape, []).append(kernel)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One step; kernels without a gradient stay as they are."""
        rate, usable = self.param_groups[0]["lr"], self.found_inf == 0
        for kernels in self.sizes.values():
            moved = [(kernel, kernel.grad) for kernel in kernels if kernel.grad is not None]
            if not moved:
                continue
            for kernel, _ in moved:  # the name, and the shape of older runs, are those of torch.optim.Muon
                if "momentum_buffer" not in self.state[kernel]:
                    self.state[kernel]["momentum_buffer"] = torch.zeros_like(kernel)
            momenta = [self.state[kernel]["momentum_buffer"].view_as(kernel) for kernel, _ in moved]
            before, gradient = torch.stack(momenta), torch.stack([gradient for _, gradient in moved])
            gradient = torch.where(usable, gradient, before)
            momentum = before.lerp(gradient, 1 - self.MOMENTUM)
            torch._foreach_copy_(momenta, list(momentum.unbind()))
            update = self._orthogonal(gradient.lerp(momentum, self.MOMENTUM).flatten(2)) * usable
            height, width = update.shape[1:]
            scale = max(1, height / width) ** 0.5
            changes = list(update.view_as(gradient).unbind())
            torch._foreach_add_([kernel.detach() for kernel, _ in moved], changes, alpha=-rate * scale)

    def _orthogonal(self, x: Tensor) -> Tensor:
        """(B, rows, columns) -> the nearest matrices with equal singular values, roughly."""
        a, b, c = self.COEFFICIENTS
        tall = x.shape[1] > x.shape[2]
        x = (x.mT if tall else x).bfloat16()
        x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=self.FLOOR)
        for _ in range(self.STEPS):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return (x.mT if tall else x).to(torch.float32, memory_format=torch.contiguous_format)


def optimisers(model: nn.Module, options: Options) -> list[torch.optim.Optimizer]:
    """Muon for the kernels of dense layers, AdamW for everything else."""
    dense = (layer.get_parameter("weight") for layer in model.modules() if _is_dense(layer))
    kernels = [kernel for kernel in dense if kernel.requires_grad]
    chosen = {id(p) for p in kernels}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    found: list[torch.optim.Optimizer] = []
    if kernels:
        found.append(Muon(kernels, options.muon_rate))
    if rest:
        found.append(
            torch.optim.AdamW(rest, lr=options.adam_rate, weight_decay=0.0, betas=(0.9, 0.99), fused=True)
        )
    return found


def _words(figures: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in figures.items())


class Run:
    """One training run: a model, its optimisers and its running average, stepped to the end.

    Args:
        model: module whose parameters are trained.
        options: see ``Options``.
        loss: see ``Loss``.
        evaluate: given the averaged model, returns figures by name; called at every save.
        beside: a tensor of the stage's own, changed in place, that goes with the checkpoint.

    Attributes:
        step: steps done so far, over all resumed parts.
        seconds: time spent in them.
        metrics: what ``evaluate`` last returned.

    Raises:
        InputError: the checkpoint to resume from is none of such a run.
    """

    def __init__(
        self,
        model: nn.Module,
        options: Options,
        loss: Loss,
        evaluate: Callable[[nn.Module], dict[str, float]],
        beside: Tensor | None = None,
    ) -> None:
        self.model, self.options, self.loss, self.evaluate = model, options, loss, evaluate
        self.beside = torch.empty(0) if beside is None else beside
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(options.ema_decay))
        self.optimisers = optimisers(model, options)
        self.rates = [o.param_groups[0]["lr"] for o in self.optimisers]
        self.step = 0
        self.seconds = 0.0
        self.metrics: dict[str, float] = {}
        if options.resume:
            self._load()

    def _load(self) -> None:
        try:
            # On the CPU, where optimisers count their steps; all else is copied to its place.
            state: dict[str, Any] = torch.load(self.options.checkpoint, "cpu", weights_only=True)
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(saved)
            self.beside.copy_(state["beside"])
            self.step, self.seconds = state["step"], state["seconds"]
        except Exception as error:  # torch raises nearly anything on files that are no checkpoint
            words = f"cannot resume from {self.options.checkpoint} ({type(error).__name__})"
            raise InputError(words) from error

    def _save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
            "beside": self.beside,
            "step": self.step,
            "seconds": self.seconds,
        }
        partial = self.options.checkpoint.with_name(self.options.checkpoint.name + ".partial")
        try:
            torch.save(state, partial)
            partial.replace(self.options.checkpoint)
        except (OSError, RuntimeError) as error:  # torch tells of a full disk by the latter
            partial.unlink(missing_ok=True)
            raise OutputError(f"{self.options.checkpoint}: {error}") from error

    def _one_step(self, progress: float) -> dict[str, Tensor]:
        factor = learning_rate_factor(self.step, progress)
        for optimiser, rate in zip(self.optimisers, self.rates, strict=True):
            optimiser.param_groups[0]["lr"] = rate * factor
        loss, figures = self.loss(self.model, progress)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        overflow = (~norm.isfinite()).float()
        for optimiser in self.optimisers:  # a rare overflow costs one step, not the run
            optimiser.found_inf = overflow  # type: ignore[attr-defined]
            optimiser.step()
        self.average.update_parameters(self.model)
        self.model.zero_grad(set_to_none=True)
        self.step += 1
        return {"loss": loss.detach(), **figures}

    def to_the_end(self) -> nn.Module:
        """Train until the budget is spent; returns the averaged model. Raises OutputError where the
        checkpoint cannot be written."""
        options = self.options
        smooth: dict[str, float] = {}
        last = saved = time.monotonic()
        while (progress := options.budget.progress(self.step, self.seconds)) < 1:
            look = self.step % LOOK_EVERY == 0
            figures = self._one_step(progress)
            for name, value in figures.items() if look else ():
                if bool(value.isfinite()):
                    smooth[name] = (1 - SMOOTHED) * smooth.get(name, float(value)) + SMOOTHED * float(value)
            now = time.monotonic()
            self.seconds += now - last
            last = now
            words = _words(smooth)
            options.tick(progress, words)
            if now - saved > 60 * options.save_every:
                self._save()
                saved = time.monotonic()
                self._log(words)
                last = time.monotonic()
        self._save()
        self._log("finished")
        return self.average.module

    def _log(self, words: str) -> None:
        self.average.module.eval()
        with torch.no_grad():
            self.metrics = self.evaluate(self.average.module)
        minutes = f"{self.seconds / 60:.1f} min"
        self.options.report(f"step {self.step}  {minutes}  {words}  | {_words(self.metrics)}")
