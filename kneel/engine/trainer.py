"""One process of a training: devices and precision by Accelerate, and what an epoch does with model and data."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import send_to_device
from torch.utils.data import Dataset

from kneel.engine.averaging import WeightAverage
from kneel.engine.board import with_intervals
from kneel.engine.config import ConfigError, TrainingConfig
from kneel.engine.cpu import cpu_has_bf16, lay_out
from kneel.engine.loading import KeyedSamples, deferred, make_loader, train_batches, val_batches
from kneel.engine.optim import build_optimizer, learning_rate
from kneel.engine.parallel import Share, share_layers, shared
from kneel.engine.pictures import Picture, draw
from kneel.engine.precision import in_float64
from kneel.engine.processes import process_count, progress
from kneel.engine.record import Record, Row
from kneel.engine.seeding import derive_seed, seed_everything
from kneel.engine.task import Deferring, Judged, Pictured, Task

_log = logging.getLogger(__name__)
_OURS = ("epoch", "learning_rate", "train_loss")  # columns that the engine adds to the task's metrics


class TrainingDiverged(RuntimeError):
    """The loss or the monitored metric is no finite number; says where."""


class Trainer:
    """One process of a training: model, optimizer and data on their device, and what an epoch does with them."""

    def __init__(self, task: Task, config: TrainingConfig, cpu: bool) -> None:
        self.task, self.config = task, config
        self.accelerator = _accelerator(config, cpu)
        self.is_main: bool = self.accelerator.is_main_process
        self.rank, self.world = int(self.accelerator.process_index), int(self.accelerator.num_processes)
        self._seed("data")
        self.train_set, self.val_set = task.train_dataset(), task.val_dataset()
        self._fetched, self._finish = deferred(config, self.train_set, self.accelerator.device)
        for which, dataset in (("training", self.train_set), ("validation", self.val_set)):
            if not _length(dataset):
                raise ValueError(f"the {which} set is empty")
        self._seed("model")
        self.module = task.build_model()
        if config.precision == "float64":
            self.module.double()
        if self.world > 1:
            self.module = share_layers(self.module, self.accelerator.device)
        lay_out(self.module, self.accelerator.device)
        self.model = self.accelerator.prepare_model(self.module)
        if config.compile:
            self.model = torch.compile(self.model)  # snapshots are of the module: no other names of weights
        self.optimizer = self.accelerator.prepare_optimizer(build_optimizer(self.module, config))
        self.average = None if config.swa_start is None else WeightAverage(self.module, config)

    def open(self, record: Record, resume: bool) -> None:
        """Take up the run in the folder, or clear the folder for a new one."""
        found = resume and record.begun()
        if found:
            parts = self.module, self.optimizer.optimizer, self.accelerator.scaler, self.average
            record.restore(*parts, deferring=isinstance(self.train_set, Deferring))
        self.accelerator.wait_for_everyone()  # nobody writes before everybody has read
        if self.is_main and found:
            record.repair()
        elif self.is_main:
            record.start()

    def save(self, record: Record) -> None:
        """Write the snapshots of the epoch that is over, on one rank."""
        if self.is_main:
            record.save(self.module, self.optimizer.optimizer, self.accelerator.scaler, self.average)
        self.accelerator.wait_for_everyone()

    def train_epoch(self, epoch: int) -> tuple[float, float]:
        """Return the mean training loss of the epoch, and the learning rate of its last step."""
        batches, loader = self._training_batches(epoch, "epoch", epoch)
        self.model.train()
        total, rate = 0.0, 0.0
        bar = progress(loader, f"epoch {epoch + 1}/{self.config.epochs}")
        for step, (places, batch) in enumerate(zip(batches, bar, strict=True)):
            rate = learning_rate(self.config, epoch * len(batches) + step, len(batches))
            # Keyed by the step: every step draws anew, and a resumed run draws what an uninterrupted one would.
            self._seed("epoch", epoch, "step", step)
            with shared(Share(len(places), self.rank, self.world)) as share:
                loss = self._step(batch, rate, share.weight)
            if not math.isfinite(loss):
                raise TrainingDiverged(f"the training loss is {loss} in epoch {epoch + 1}, step {step + 1}")
            total += loss * len(places)
            bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
        return total / sum(map(len, batches)), rate

    def average_weights(self, epoch: int) -> None:
        """Take the weights of the epoch into the average, if there is one, and measure its batch norms."""
        if self.average is None or not self.average.update(self.module, epoch + 1):
            return
        _, loader = self._training_batches(epoch, "average", epoch)
        moved = (self._training_batch(batch) for batch in progress(loader, "batch norms of the average"))
        # torch's update_bn passes clean batches; so does this: nothing is mixed up that the network will not read
        self.average.measure_batch_norms(moved, self.task.predict)

    def _step(self, batch: Any, rate: float, weight: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self.accelerator.device)
        loss = self.task.training_loss(self.model, self._training_batch(batch))
        for term in [loss] if isinstance(loss, torch.Tensor) else loss:
            total = total + weight * term.detach()
            # The processes average their gradients: what is left of these factors is the mean over the whole batch.
            self.accelerator.backward(self.world * weight * term)
        mean = float(self.accelerator.reduce(total, "sum"))  # so that all processes stop together
        if math.isfinite(mean):
            if self.config.clip_norm is not None:
                self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
            self.optimizer.step()
        return mean

    @torch.no_grad()
    def validate(self, epoch: int) -> Row:
        """Return the task's metrics over the whole validation set."""
        length = _length(self.val_set)
        batches = val_batches(length, self.config.batch_size, self.rank, self.world)
        # No epoch in these keys: should a validation set draw at all, every epoch is judged on the same draw.
        loader = self._loader(self.val_set, range(length), batches, "validation")
        self._seed("validation")
        model = (self.average and self.average.module) or self.module  # not what is wrapped: nothing is to be shared
        model.eval()
        parts: list[dict[str, torch.Tensor]] = []
        for numbers, batch in zip(batches, progress(loader, "validation"), strict=True):
            outputs = self.task.predict(model, self._to_device(batch))
            odd = {key: tuple(value.shape) for key, value in outputs.items() if value.shape[:1] != (len(numbers),)}
            if odd:
                raise ValueError(f"predict: shapes {odd}: the first dimension must be the batch, {len(numbers)}")
            parts.append(outputs)
        gathered = {key: self._gather(torch.cat([part[key] for part in parts]), length) for key in parts[0]}
        metrics = _checked(self.task.metrics(gathered), self.config.monitor, epoch)
        return with_intervals(metrics, self.task.intervals(gathered)) if isinstance(self.task, Judged) else metrics

    def picture(self) -> Picture | None:
        """Draw what the network that is judged makes of a few validation samples, where the task draws."""
        if not isinstance(self.task, Pictured):
            return None
        self._seed("pictures")
        return draw(self.task, (self.average and self.average.module) or self.module, self.val_set, self._to_device)

    def _gather(self, mine: torch.Tensor, length: int) -> np.ndarray:
        """Bring the ranks' samples into the order of the validation set; drop those that were dealt twice."""
        if mine.dtype in (torch.bfloat16, torch.float16):
            mine = mine.float()  # numpy has no bfloat16
        # Accelerate's gather_for_metrics would do, but on an error inside it hands back the repeated samples too.
        by_rank = self.accelerator.gather(mine.contiguous()).unflatten(0, (self.world, -1))
        return by_rank.transpose(0, 1).flatten(0, 1)[:length].cpu().numpy()

    def _order(self, epoch: int) -> Sequence[int]:
        generator = torch.Generator().manual_seed(derive_seed(self.config.seed, "order", epoch))
        sampler = self.task.train_sampler(self.train_set, generator)
        if sampler is None:
            return [int(number) for number in torch.randperm(_length(self.train_set), generator=generator)]
        return [int(number) for number in sampler]

    def _training_batches(self, epoch: int, *key: int | str) -> tuple[list[range], Any]:
        """Return the whole batches of an epoch, as places in its order, and the loader of this process's share."""
        order = self._order(epoch)
        batches = train_batches(len(order), self.config.batch_size, self.world)
        return batches, self._loader(self._fetched, order, [each[self.rank :: self.world] for each in batches], *key)

    def _loader(
        self, dataset: Dataset[Any], order: Sequence[int], batches: Sequence[Sequence[int]], *key: int | str
    ) -> Any:
        samples = KeyedSamples(dataset, order, (self.config.seed, *key))
        pin = self.accelerator.device.type == "cuda"
        return make_loader(samples, batches, num_workers=self.config.num_workers, pin=pin)

    @torch.no_grad()
    def _training_batch(self, batch: Any) -> Any:
        return self._to_device(batch, self._finish)

    def _to_device(self, batch: Any, finish: Callable[[Any], Any] | None = None) -> Any:
        moved = send_to_device(batch, self.accelerator.device, non_blocking=True)
        moved = finish(moved) if finish else moved
        return in_float64(moved) if self.config.precision == "float64" else moved

    def _seed(self, *key: int | str) -> None:
        seed_everything(derive_seed(self.config.seed, *key), devices=self.accelerator.device.type != "cpu")


def _accelerator(config: TrainingConfig, cpu: bool) -> Accelerator:
    # Accelerate keeps the precision of the first training in a process for all that follow; each has its own here.
    AcceleratorState._reset_state(reset_partial_state=True)
    precision, on_cpu = config.precision, cpu or not torch.cuda.is_available()
    if precision == "fp16" and on_cpu:
        raise ConfigError("precision = fp16: needs a CUDA device; on a CPU use bf16, off or auto")
    if precision == "auto":
        precision = (
            "bf16" if (cpu_has_bf16() if on_cpu else torch.cuda.is_bf16_supported(including_emulation=False)) else "off"
        )
        _log.info("precision = auto: %s on this device", precision)
    elif precision == "bf16" and on_cpu and not cpu_has_bf16():
        _log.warning("precision = bf16: this CPU has no arithmetic for it and is several times slower than with off")
    # Without cpu Accelerate takes processes on a machine without a GPU for strangers: each would write as if alone.
    accelerator = Accelerator(cpu=on_cpu, mixed_precision=precision if precision in ("bf16", "fp16") else "no")
    if accelerator.num_processes != process_count():
        found = f"{process_count()} processes were started, and Accelerate found {accelerator.num_processes}"
        raise ConfigError(f"{found}: start them with torchrun or accelerate launch")
    return accelerator


def _checked(metrics: Mapping[str, float], monitor: str, epoch: int) -> Row:
    """Return the metrics as floats; infinite ones as NaN, for a metric that has no value here."""
    taken = [key for key in metrics if key in _OURS]
    if taken:
        raise ValueError(f"metrics: the name {taken[0]} is the engine's own")
    if monitor not in metrics:
        raise ValueError(f"monitor = {monitor}: the task's metrics are {', '.join(metrics)}")
    if not math.isfinite(metrics[monitor]):
        raise TrainingDiverged(f"the monitored metric {monitor} is {metrics[monitor]} in epoch {epoch + 1}")
    return {key: float(value) if math.isfinite(value) else math.nan for key, value in metrics.items()}


def _length(dataset: Dataset[Any]) -> int:
    return len(dataset)  # type: ignore[arg-type] # torch leaves __len__ out of its Dataset
