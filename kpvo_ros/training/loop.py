"""The only training loop: step, tell, validate, save; every method's task runs in it.

A run ends when its plan is fulfilled or somebody asks; both leave a checkpoint from which
`resume` goes on exactly as if nothing had happened (with a plan in steps: to the same bits).
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import time
from typing import Any

import torch
from torch import Tensor, nn

from kpvo_ros.config.training import TrainingConfig
from kpvo_ros.training import TrainingError
from kpvo_ros.training.checkpoint import below_prefix, load_state, save_state, with_prefix
from kpvo_ros.training.curve import plot_curve
from kpvo_ros.training.optimizer import (
    AveragedWeights,
    make_optimizer,
    optimizer_tensors,
    restore_optimizer,
    set_rate,
)
from kpvo_ros.training.precision import autocast
from kpvo_ros.training.run import ProgressLine, Run, clock_text
from kpvo_ros.training.schedule import Plan, learning_rate
from kpvo_ros.training.task import Loss, Task
from kpvo_ros.training.team import Alone, Team

_SEED_STRIDE = 1_000_003  # between the data of two ranks


@dataclasses.dataclass
class Position:
    """How far a run is.

    Attributes:
        step: optimizer steps done, skipped ones included.
        elapsed_s: time of work over all sittings.
        validated: validations of the plan that lie behind.
        best: best value of the deciding metric, None before the first.
        skipped: steps without a finite gradient, in all.
        skipped_in_a_row: the same since the last good step.
    """

    step: int = 0
    elapsed_s: float = 0.0
    validated: int = -1
    best: float | None = None
    skipped: int = 0
    skipped_in_a_row: int = 0


@dataclasses.dataclass(frozen=True)
class Sitting:
    """What is particular to one call of `train`.

    Attributes:
        plan: how long the run is.
        resume: go on from the checkpoint of the run.
        overfit: learn one batch by heart, to see whether a task can be learned at all.
        should_stop: asked before every step; True ends the sitting with a checkpoint.
        clock: monotonic seconds.
        line: where progress is shown.
        team: the processes that train together.
    """

    plan: Plan
    resume: bool = False
    overfit: bool = False
    should_stop: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic
    line: ProgressLine = dataclasses.field(default_factory=ProgressLine)
    team: Team = dataclasses.field(default_factory=Alone)


def train(task: Task, config: TrainingConfig, run: Run, sitting: Sitting) -> Position:
    """Train a task's network until the plan is fulfilled or a stop is asked for.

    Args:
        task: data, loss and metrics of a method.
        config: how to step.
        run: where results go.
        sitting: length, clock, and what else belongs to this call.

    Returns:
        Where the run stands.

    Raises:
        TrainingError: nothing fits to resume, or gradients stay non-finite.
    """
    return _Loop(task, config, run, sitting).go()


class _Loop:
    def __init__(self, task: Task, config: TrainingConfig, run: Run, sitting: Sitting) -> None:
        self._task, self._config, self._run, self._sitting = task, config, run, sitting
        self._team, self._line = sitting.team, sitting.line
        network = task.network
        if config.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device = next(network.parameters()).device
        self._team.share_weights(network)
        self._optimizer = make_optimizer(network, config)
        self._average = AveragedWeights(network, config.ema_decay)
        seed = config.seed + _SEED_STRIDE * self._team.rank
        self._generator = torch.Generator(self._device).manual_seed(seed)
        self._at = Position()
        if sitting.resume:
            self._restore()
        self._began_s = sitting.clock() - self._at.elapsed_s
        self._saved_s = self._at.elapsed_s
        self._recent: list[tuple[Loss, Tensor]] = []
        self._told = self._at.step, self._at.elapsed_s
        self._batch: Any = task.batch(self._generator) if sitting.overfit else None

    # ------------------------------------------------------------------- the order of things

    def go(self) -> Position:
        if self._at.validated < 0:
            self._validate(0)
        while not self._pause_or_end():
            self._step()
            self._tell(1 if self._progress() >= 1.0 else self._config.log_every_steps)
            self._validate(int(self._progress() * self._config.validations))
            if self._at.elapsed_s - self._saved_s >= self._config.checkpoint_every_s:
                self._save()
        self._finish()
        return self._at

    def _pause_or_end(self) -> bool:
        """Whether to stop; rank 0 decides, and its clock is everybody's."""
        now_s = self._sitting.clock() - self._began_s
        asked = float(self._sitting.should_stop())
        self._at.elapsed_s, stop = self._team.decide([now_s, asked])
        return bool(stop) or self._progress() >= 1.0

    def _progress(self) -> float:
        return self._sitting.plan.progress(self._at.step, self._at.elapsed_s)

    def _step(self) -> None:
        config, network = self._config, self._task.network.train()
        batch = self._task.batch(self._generator) if self._batch is None else self._batch
        with autocast(config, self._device):
            loss = self._task.loss(batch, self._progress())
        loss.total.backward()
        length = self._average_gradients(loss.total)
        if torch.isfinite(length):
            set_rate(self._optimizer, learning_rate(config, self._at.step, self._progress()))
            self._optimizer.step()
            self._average.update(network, self._at.step)
            self._at.skipped_in_a_row = 0
            self._recent.append((Loss(loss.total.detach(), loss.parts), length))
        else:
            self._skip(network)
        self._optimizer.zero_grad(set_to_none=True)
        self._at.step += 1

    def _average_gradients(self, total: Tensor) -> Tensor:
        """Mean over the team, clipped; returns the length before, not finite if the loss is."""
        parameters = [p for p in self._task.network.parameters() if p.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:  # every rank must send the same number of values
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in parameters if p.grad is not None]
        cost = total.detach().float().clone()
        self._team.average([*gradients, cost])
        length = nn.utils.clip_grad_norm_(parameters, self._config.clip_norm)
        return length + 0.0 * cost

    def _skip(self, network: nn.Module) -> None:
        self._at.skipped += 1
        self._at.skipped_in_a_row += 1
        average = dict(self._average.network.named_buffers())
        for name, buffer in network.named_buffers():
            if not torch.isfinite(buffer).all():  # statistics that the same batch has spoilt
                buffer.copy_(average[name])
        self._run.log(f'step {self._at.step}: no finite gradient, skipped')
        if self._at.skipped_in_a_row >= self._config.max_skipped:
            raise TrainingError(
                f'{self._at.skipped_in_a_row} steps in a row gave no finite gradient (step '
                f'{self._at.step}); lower training.learning_rate or use '
                'training.precision=float32, then --resume'
            )

    # ------------------------------------------------------------------------ what is told

    def _tell(self, at_least: int) -> None:
        """Record what the last steps cost, when there were so many of them."""
        steps = self._at.step - self._told[0]
        if steps < at_least or not self._recent:
            return
        step_s = (self._at.elapsed_s - self._told[1]) / steps
        parts = {'total': torch.stack([loss.total for loss, _ in self._recent]).mean()}
        for name in self._recent[-1][0].parts:
            values = [loss.parts[name] for loss, _ in self._recent if name in loss.parts]
            parts[name] = torch.stack(values).float().mean()
        numbers = {name: round(float(value), 6) for name, value in parts.items()}
        self._run.record(
            {
                **self._where('train'),
                'values': numbers,
                'gradient': round(float(torch.stack([g for _, g in self._recent]).mean()), 6),
                'skipped': self._at.skipped,
                'step_s': round(step_s, 4),
            }
        )
        shown = ' '.join(f'{name} {value:.3f}' for name, value in numbers.items())
        left = ''
        if self._progress() > 0:
            left_s = self._at.elapsed_s * (1 / self._progress() - 1)
            left = f'  ETA {clock_text(left_s)}'
        self._line.show(
            f'step {self._at.step}  {clock_text(self._at.elapsed_s)}  {step_s:.2f} s/step  '
            f'{shown}{left}'
        )
        self._recent.clear()
        self._told = self._at.step, self._at.elapsed_s

    def _where(self, kind: str) -> dict[str, Any]:
        return {
            'kind': kind,
            'step': self._at.step,
            'minutes': round(self._at.elapsed_s / 60, 4),
            'progress': round(self._progress(), 5),
            'rate': round(learning_rate(self._config, self._at.step, self._progress()), 8),
        }

    def _validate(self, number: int) -> None:
        """Look at the held-out data when the plan's validation `number` has been reached."""
        if self._sitting.overfit or number <= self._at.validated:
            return
        self._at.validated = number
        if self._team.rank != 0:
            return
        began_s = self._sitting.clock()
        metrics = self._task.validate(self._average.network)
        took_s = self._sitting.clock() - began_s
        decider = next(iter(metrics))
        is_best = self._at.best is None or metrics[decider] > self._at.best
        if is_best:
            self._at.best = metrics[decider]
            self._task.export(self._average.network, self._run.best_weights)
        self._run.record({**self._where('validation'), 'values': metrics, 'took_s': took_s})
        shown = ' '.join(f'{name} {value:.3f}' for name, value in metrics.items())
        text = f'step {self._at.step}  {clock_text(self._at.elapsed_s)}  held out: {shown}'
        self._line.keep(text + ('  (best)' if is_best else ''))
        self._run.log(text)

    # ------------------------------------------------------------------------ what is kept

    def _save(self) -> None:
        states = self._team.gather(self._generator.get_state())
        self._saved_s = self._at.elapsed_s
        if self._team.rank != 0:
            return
        network = self._task.network
        tensors = {
            **with_prefix('network/', network.state_dict()),
            **with_prefix('average/', self._average.network.state_dict()),
            **with_prefix('optimizer/', optimizer_tensors(self._optimizer, network)),
            **{f'generator/{rank}': state for rank, state in enumerate(states)},
        }
        facts = {'task': self._task.name, 'position': dataclasses.asdict(self._at)}
        save_state(self._run.checkpoint, tensors, facts)

    def _restore(self) -> None:
        tensors, facts = load_state(self._run.checkpoint)
        if facts.get('task') != self._task.name:
            raise TrainingError(
                f'{self._run.checkpoint}: trains {facts.get("task")!r}, not {self._task.name!r}; '
                'start without --resume in another --out'
            )
        network = self._task.network
        try:
            network.load_state_dict(below_prefix('network/', tensors))
            self._average.network.load_state_dict(below_prefix('average/', tensors))
            self._at = Position(**facts['position'])
        except (RuntimeError, KeyError, TypeError) as error:
            reason = ' '.join(str(error).split())
            raise TrainingError(
                f'{self._run.checkpoint}: does not fit this network ({reason[:200]}); resume with '
                'the configuration it began with'
            ) from None
        restore_optimizer(self._optimizer, network, below_prefix('optimizer/', tensors))
        state = tensors.get(f'generator/{self._team.rank}')
        if state is not None:  # a larger team begins its further streams anew
            self._generator.set_state(state)
        self._run.forget_after(self._at.step)
        # A plan that was made longer has validations left.
        reached = int(self._progress() * self._config.validations)
        self._at.validated = min(self._at.validated, reached)

    def _finish(self) -> None:
        self._tell(1)
        if self._progress() >= 1.0:
            self._validate(self._config.validations)
        self._save()
        if self._team.rank == 0:
            self._task.export(self._average.network, self._run.last_weights)
            plot_curve(self._run.rows(), self._run.curve)
            self._run.log(f'stopped at step {self._at.step}, {self._at.skipped} skipped')
