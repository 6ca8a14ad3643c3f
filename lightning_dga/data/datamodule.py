"""The data module: owns the mixture's weights and streams the batches that they ask for."""

from collections.abc import Callable, Mapping, Sequence
from types import MethodType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from typing_extensions import override

from lightning_dga._lightning import LightningDataModule
from lightning_dga.data.batches import random_seed
from lightning_dga.data.composition import Composition
from lightning_dga.data.loader import BatchInfo, MixtureLoader
from lightning_dga.data.probes import MixedPool, Pool, ProbeReader, Probes
from lightning_dga.data.sources import DatasetPerDomain, LabelledDataset, Sources
from lightning_dga.data.workers import outlive_signals
from lightning_dga.weights import WeightsLike, as_weights

_STREAM_EPOCH = 1000


class MixtureDataModule(LightningDataModule):
    """Streams training batches from k domains, in proportions that may change at any step.

    The batch that ``training_step`` sees is what ``collate_fn`` made. New weights (:meth:`set_weights`) govern the very
    next batch, also with workers running: work that was queued under older weights is taken back and drawn again. Which
    samples come next depends only on the seed, the weights and how many samples were trained on, so a checkpoint
    resumes exactly, also in the middle of an epoch, and with another number of workers or processes.

    Args:
        domains: The training data by domain name. Map-style data sets are visited without replacement and reshuffled
            every epoch; an iterable is read in its own order and started again when it ends. One that can be split
            (``num_shards`` and ``shard``) is shared by the processes, and one with ``state_dict`` resumes by it, as
            Hugging Face's streams do; of others every process reads all, and a resumed run reads again from the start.
        target: The target set: samples of what the model shall be good at. Several by name, where there are several.
        val: Validation data.
        test: Test data.
        weights: Weights to start with: a mapping that names every domain, or k numbers. Uniform if not given.
        batch_size: Training samples per batch and process.
        target_batch_size: Samples of each target for an alignment, over all processes together.
        num_workers: Worker processes that read and collate training, validation and test batches.
        collate_fn: Turns a list of samples into a batch; torch's default if not given.
        seed: Selects the sequence of training samples.
        batches_per_epoch: Training batches that make an epoch. By default as many as hold every sample once, or 1,000
            where a domain is an iterable.
        sampling: ``"multinomial"`` draws each sample's domain independently; under ``"quota"`` each domain stays within
            one sample of its ideal share (:mod:`~lightning_dga.data.quota`).
        pure_batches: Whether each process's batch is of one domain, which lets ``in_step`` measure any model under
            gradient accumulation. A run is then to be resumed with the same ``batch_size``.
        max_staleness: After how many further batches new weights take effect; 0 recalls all queued work, a larger
            number recalls only what lies beyond it.
        stream_shards: Into how many shards an iterable domain is split at most, where it can be. The processes share
            them: best a multiple of their number.
        prefetch_factor: Batches that each worker prepares ahead.
        pin_memory: Copies batches to pinned memory before handing them over.
        timeout: Seconds to wait for a worker's batch before an error; 0 waits for ever.
        multiprocessing_context: How workers start: ``"fork"``, ``"spawn"`` or ``"forkserver"``.

    Raises:
        ValueError: If ``weights`` are not usable (see :func:`~lightning_dga.weights.as_weights`), a domain is empty,
            two share a name, or a size is not positive.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> domains = {name: TensorDataset(torch.randn(100, 3)) for name in ("wiki", "code")}
        >>> datamodule = MixtureDataModule(domains, target=TensorDataset(torch.randn(20, 3)), batch_size=8)
        >>> datamodule.set_weights({"wiki": 0.9, "code": 0.1})
        >>> datamodule.weights
        tensor([0.9000, 0.1000], dtype=torch.float64)
    """

    def __init__(
        self,
        domains: Mapping[str, Dataset] | Sources,
        target: Dataset | Mapping[str, Dataset],
        *,
        val: Dataset | None = None,
        test: Dataset | None = None,
        weights: WeightsLike | None = None,
        batch_size: int,
        target_batch_size: int = 16,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        seed: int = 0,
        batches_per_epoch: int | None = None,
        sampling: str = "multinomial",
        pure_batches: bool = False,
        max_staleness: int = 0,
        stream_shards: int = 16,
        prefetch_factor: int = 2,
        pin_memory: bool = False,
        timeout: float = 0,
        multiprocessing_context: str | None = None,
    ) -> None:
        super().__init__()
        for name, value in {"batch_size": batch_size, "target_batch_size": target_batch_size}.items():
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if batches_per_epoch is not None and batches_per_epoch < 1:
            raise ValueError(f"`batches_per_epoch` must be at least 1, got {batches_per_epoch}.")
        if stream_shards < 1:
            raise ValueError(f"`stream_shards` must be at least 1, got {stream_shards}.")
        for name, value in {"num_workers": num_workers, "max_staleness": max_staleness}.items():
            if value < 0:
                raise ValueError(f"`{name}` must not be negative, got {value}.")
        self.batch_size = batch_size
        self.pure_batches = pure_batches
        self.target_batch_size = target_batch_size
        self.seed = seed
        self._sources = DatasetPerDomain(domains) if isinstance(domains, Mapping) else domains
        self._target = DatasetPerDomain(target if isinstance(target, Mapping) else {"target": target})
        run_length = batch_size if pure_batches else 1
        self._composition = Composition(
            as_weights(weights, self.domain_names), seed, sampling=sampling, run_length=run_length
        )
        self._evaluation = {"val": val, "test": test}
        self._collate_fn = collate_fn or default_collate
        self._batches_per_epoch = batches_per_epoch
        self._max_staleness = max_staleness
        self._stream_shards = stream_shards
        self._stream_state: dict[str, Any] = {}
        self._workers: dict[str, Any] = {
            "num_workers": num_workers,
            "pin_memory": pin_memory,
            "timeout": timeout,
            "prefetch_factor": prefetch_factor if num_workers else None,
            "worker_init_fn": outlive_signals,
            "multiprocessing_context": multiprocessing_context if num_workers else None,
        }
        self._loader: MixtureLoader | None = None
        self._probes: ProbeReader | None = None
        if val is None:
            self._offer_no("val_dataloader")
        if test is None:
            self._offer_no("test_dataloader")

    @classmethod
    def from_labels(
        cls,
        dataset: Dataset,
        labels: Sequence[int] | NDArray[np.int64] | Tensor,
        target: Dataset | Mapping[str, Dataset],
        **arguments: Any,
    ) -> "MixtureDataModule":
        """A mixture of the clusters of one data set.

        Args:
            dataset: A map-style data set.
            labels: Integer domain label of each sample. Labels that do not occur are not domains.
            target: The target set, or several by name.
            **arguments: As of the class. Domains are named by their label: ``"0"``, ``"1"``, …
        """
        return cls(LabelledDataset(dataset, labels), target, **arguments)

    @property
    def domain_names(self) -> tuple[str, ...]:
        """The k domain names, in the order of every weight and alignment."""
        return self._sources.names

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of the targets; ``("target",)`` where one was given without a name."""
        return self._target.names

    @property
    def weights(self) -> Tensor:
        """The newest weights, ``[k]`` float64, a copy."""
        return self._composition.weights

    @property
    def weights_version(self) -> int:
        """How often the weights have been set."""
        return self._composition.version

    def set_weights(self, weights: WeightsLike) -> None:
        """Changes the mixture, from the next batch on (or ``max_staleness`` batches later).

        Under several processes all must set the same weights at the same step.

        Args:
            weights: A mapping that names every domain, or k numbers; normalised.

        Raises:
            ValueError: If they are not usable; the weights stay as they were.
        """
        self._composition.set_weights(as_weights(weights, self.domain_names))
        if self._loader is not None:
            self._loader.recall()

    @property
    def current_batch(self) -> BatchInfo | None:
        """Where the samples of the batch in training came from; ``None`` before the first."""
        return self._loader.current if self._loader is not None else None

    @property
    def samples_seen(self) -> Tensor:
        """Training samples drawn from each domain so far, over all processes, ``[k]`` int64."""
        return self._composition.counts()

    @property
    def domain_sizes(self) -> Tensor:
        """Samples in each domain, ``[k]`` int64; 0 for an iterable, whose size is not known."""
        return torch.from_numpy(self._sources.sizes.copy())

    @property
    def staleness(self) -> int:
        """Batches that were handed to training under older weights since the newest were set: 0 to `max_staleness`."""
        return -(-self._composition.stale_samples // (self.batch_size * self._rank_and_world_size()[1]))

    @property
    def epochs_seen(self) -> Tensor:
        """How often each domain has been gone through, ``[k]`` float64; NaN for an iterable of unknown size."""
        sizes = self.domain_sizes.double()
        return torch.where(sizes > 0, self.samples_seen / sizes, torch.nan)

    @property
    def batches_per_epoch(self) -> int:
        """Training batches of one process in an epoch."""
        return self._batches_per_epoch or self._epoch(self.batch_size * self._rank_and_world_size()[1])

    def probes(self, update: int, size: int, *, target: int = 0, mixtures: Tensor | None = None) -> Probes:
        """This process's share of the probes of an update: ``size`` samples of every domain, and target samples.

        Args:
            update: Number of the update; selects the samples.
            size: Samples of each domain, over all processes.
            target: Number of the target.
            mixtures: Takes ``size`` samples of each of these mixtures of the domains instead, ``[N, k]``, rows on the
                simplex. Domains must be map-style.
        """
        rank, world_size = self._rank_and_world_size()
        reader = self._probe_reader()
        pool: Pool = reader.domains if mixtures is None else MixedPool(reader.domains, mixtures.numpy(), self.seed)
        return Probes(reader, pool, update, size, target, self.target_batch_size, rank, world_size)

    @override
    def train_dataloader(self) -> MixtureLoader:
        if self._loader is not None:
            self._loader.close()
            self._stream_state = self._loader.stream_state(self._composition.position)
        rank, world_size = self._rank_and_world_size()
        batch = self.batch_size * world_size
        self._composition.lag = self._max_staleness * batch
        self._loader = MixtureLoader(
            self._composition,
            self._sources,
            batch_size=self.batch_size,
            batches_per_epoch=self.batches_per_epoch,
            collate_fn=self._collate_fn,
            rank=rank,
            world_size=world_size,
            seed=self.seed,
            random_seed=random_seed(self.seed),
            stream_shards=self._stream_shards,
            stream_state=self._stream_state,
            **self._workers,
        )
        return self._loader

    @override
    def val_dataloader(self) -> Any:
        return self._evaluation_loader("val")

    @override
    def test_dataloader(self) -> Any:
        return self._evaluation_loader("test")

    @override
    def teardown(self, stage: str) -> None:
        if stage == "fit":
            self._close()

    @override
    def on_exception(self, exception: BaseException) -> None:
        self._close()

    @override
    def state_dict(self) -> dict[str, Any]:
        """The mixture's state: the same on every process, of a size that does not grow with the run."""
        composition = self._composition.state_dict(completed=not self._batch_in_progress())
        streams = self._loader.stream_state(composition["position"]) if self._loader else self._stream_state
        return {"domain_names": list(self.domain_names), "composition": composition, "streams": streams}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the stream where the state was taken.

        Raises:
            ValueError: If the state is of other domains, or another ``sampling``.
        """
        saved = tuple(state_dict["domain_names"])
        if saved != self.domain_names:
            unknown = sorted(set(saved) ^ set(self.domain_names)) or "the same names in another order"
            raise ValueError(
                f"The checkpoint is of other domains than this data module: {unknown}. "
                "Give `domains` as in the run that is resumed, or start a new run."
            )
        self._composition.load_state_dict(state_dict["composition"])
        self._stream_state = state_dict["streams"]
        if self._loader is not None:
            self._loader.restart(self._stream_state)

    def _batch_in_progress(self) -> bool:
        """Whether training holds a batch that it has not stepped on, as when a signal or an error ends the run."""
        if self.trainer is None:
            return False
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
        return bool(progress.ready > progress.processed)

    def _rank_and_world_size(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        # tensor-parallel processes share their data: the strategy knows which do
        sampler = getattr(self.trainer.strategy, "distributed_sampler_kwargs", None)
        return (sampler["rank"], sampler["num_replicas"]) if sampler else (0, 1)

    def _probe_reader(self) -> ProbeReader:
        if self._probes is None:
            self._probes = ProbeReader(
                self._sources,
                self._target,
                self._collate_fn,
                seed=self.seed,
                most=self.batch_size,
                random_seed=random_seed(self.seed),
            )
        return self._probes

    def _epoch(self, batch: int) -> int:
        sizes = self._sources.sizes
        return -(-int(sizes.sum()) // batch) if (sizes > 0).all() else _STREAM_EPOCH

    def _offer_no(self, loader: str) -> None:
        """Puts the base class's hook back, by which Lightning knows that there is no such loader, and does not warn."""
        setattr(self, loader, MethodType(getattr(LightningDataModule, loader), self))

    def _evaluation_loader(self, name: str) -> Any:
        data = self._evaluation[name]
        if data is None:
            return []
        return DataLoader(data, batch_size=self.batch_size, collate_fn=self._collate_fn, **self._workers)

    def _close(self) -> None:
        if self._loader is not None:
            self._loader.close()
