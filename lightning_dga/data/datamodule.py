"""The data module: holds the mixture's weights and streams batches drawn by them."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, MethodType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from typing_extensions import override

from lightning_dga._lightning import LightningDataModule, MisconfigurationException, rank_zero_warn
from lightning_dga.core.weights import WeightsLike, as_weights
from lightning_dga.data.evaluation import check_evaluation, evaluation_loaders
from lightning_dga.data.kinds import check_domains
from lightning_dga.data.loading.batches import random_seed
from lightning_dga.data.loading.loader import BatchInfo, MixtureLoader
from lightning_dga.data.loading.window import AccumulationWindow, take_again
from lightning_dga.data.loading.workers import WorkerInit, WorkerLoader
from lightning_dga.data.probes import MixedPool, Pool, ProbeReader, Probes
from lightning_dga.data.resuming import (
    OTHER_WEIGHTS,
    description,
    differences,
    for_domains,
    of_another_class,
)
from lightning_dga.data.sampling.composition import Composition
from lightning_dga.data.sources import DatasetPerDomain, LabelledDataset, NoDomains, Sources
from lightning_dga.handover import Handover

_STREAM_EPOCH = 1000
# domains that `repr` names
_SHOWN = 8
Evaluation = Dataset | DataLoader | Sequence[Dataset | DataLoader] | Mapping[str, Dataset | DataLoader] | None


class MixtureDataModule(LightningDataModule):
    """Streams training batches from k domains, in proportions that may change at any step.

    ``training_step`` receives the batch that ``collate_fn`` returns. New weights (:meth:`set_weights`) apply from the
    next batch on, also with workers running: batches queued under older weights are recalled and drawn again. Which
    samples come next depends only on the seed, the weights and the number of samples trained on, so a checkpoint
    resumes exactly, also in the middle of an epoch and with another number of workers or ranks.

    A subclass may leave ``domains``, ``target``, ``val``, ``test`` and ``weights`` out of ``super().__init__`` and
    assign them in ``setup(stage)``, as Lightning's data modules do. ``setup`` runs at the start of each stage and fit;
    the stream continues where it was.

    Args:
        domains: The training data by domain name. Map-style data sets are visited without replacement and reshuffled
            every epoch; an iterable is read in its own order and restarted when it ends. An iterable that can be split
            (``num_shards`` and ``shard``) is sharded over the ranks, and one with ``state_dict`` resumes from it, as
            Hugging Face's streams do; any other is read in full by every rank, and again from the start on resume.
        target: The target set: samples of the task that the model should become good at. A mapping for several targets.
        val: Validation data: a data set (or a DataLoader), or a list or mapping of several.
        test: Test data, in the same forms.
        weights: Initial weights: a mapping that names every domain, or k numbers. Uniform if not given.
        batch_size: Training samples per batch and rank.
        target_batch_size: Samples of each target per measurement, in total over all ranks.
        num_workers: Worker processes that read and collate training, validation and test batches.
        collate_fn: Turns a list of samples into a batch; torch's default if not given.
        seed: Seed of the sequence of training samples.
        batches_per_epoch: Training batches per epoch. By default as many as contain every sample once, or 1,000 if a
            domain is an iterable.
        sampling: ``"multinomial"`` draws each sample's domain independently; under ``"quota"`` each domain stays within
            one sample of its ideal share (:mod:`~lightning_dga.data.sampling.quota`).
        pure_batches: Whether each rank's batch is of a single domain, which lets ``in_step`` measure any model under
            gradient accumulation. The run must then be resumed with the same ``batch_size``.
        max_staleness: Number of further batches after which new weights take effect; 0 recalls all queued batches, a
            larger number recalls only those beyond it.
        stream_shards: Maximum number of shards of an iterable domain, if it can be split; best a multiple of the world
            size.
        prefetch_factor: Batches that each worker prepares ahead.
        pin_memory: Copies batches to pinned memory before handing them over.
        timeout: Seconds to wait for a worker's batch before an error; 0 waits indefinitely.
        multiprocessing_context: Start method of workers: ``"fork"``, ``"spawn"`` or ``"forkserver"``.
        tokens_per_sample: Tokens of a sample, for reports that count tokens; ``None`` if samples are not text.
        tokenizer: The tokenizer of the samples, for decoding them.

    Raises:
        ValueError: If ``weights`` are not usable (see :func:`~lightning_dga.core.weights.as_weights`), a domain is
            empty, two share a name, or a size is not positive.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> domains = {name: TensorDataset(torch.randn(100, 3)) for name in ("wiki", "code")}
        >>> datamodule = MixtureDataModule(domains, target=TensorDataset(torch.randn(20, 3)), batch_size=8)
        >>> datamodule.set_weights({"wiki": 0.9, "code": 0.1})
        >>> datamodule.weights
        tensor([0.9000, 0.1000], dtype=torch.float64)
    """

    # for a subclass that calls `__init__` in `setup`
    _domains: Sources | None = None
    _targets: Sources | None = None
    _stream: Composition | None = None
    _loader: MixtureLoader | None = None
    _waiting: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self,
        domains: Mapping[str, Dataset] | Sources | None = None,
        target: Dataset | Mapping[str, Dataset] | None = None,
        *,
        val: Evaluation = None,
        test: Evaluation = None,
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
        tokens_per_sample: int | None = None,
        tokenizer: Any = None,
    ) -> None:
        # `setup` may call this again, with a Trainer attached and a stream begun
        trainer, begun = self.__dict__.get("trainer"), self._stream
        earlier = self.state_dict() if begun is None or begun.position or begun.version else {}
        super().__init__()
        self.trainer = trainer
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
        self.tokens_per_sample = tokens_per_sample
        self.tokenizer = tokenizer
        self._sampling = sampling
        self._first_weights = weights
        self._collate_fn = collate_fn or default_collate
        self._batches_per_epoch = batches_per_epoch
        self._max_staleness = max_staleness
        self._stream_shards = stream_shards
        self._workers: dict[str, Any] = {
            "num_workers": num_workers,
            "pin_memory": pin_memory,
            "timeout": timeout,
            "prefetch_factor": prefetch_factor if num_workers else None,
            "worker_init_fn": WorkerInit(),
            "multiprocessing_context": multiprocessing_context if num_workers else None,
        }
        self._waiting = {}
        self._domains = self._targets = self._stream = self._loader = None
        self._evaluation: dict[str, Evaluation] = {"val": None, "test": None}
        self._given: Tensor | None = None
        self._stream_state: dict[str, Any] = {}
        self._probes: ProbeReader | None = None
        self._window = AccumulationWindow()
        self._again = 0
        self._restored = False
        self._handover = Handover()
        self.val, self.test = val, test
        if target is not None:
            self.target = target
        if domains is not None:
            self.domains = domains
        if earlier:
            self.load_state_dict(earlier)

    @classmethod
    def from_labels(
        cls,
        dataset: Dataset,
        labels: Sequence[int] | NDArray[np.int64] | Tensor,
        target: Dataset | Mapping[str, Dataset],
        **arguments: Any,
    ) -> "MixtureDataModule":
        """A mixture of the labelled clusters of one data set.

        Args:
            dataset: A map-style data set.
            labels: Integer domain label of each sample. Labels that do not occur are not domains.
            target: The target set, or several by name.
            **arguments: Further arguments of the class. Domains are named by their labels: ``"0"``, ``"1"``, …
        """
        return cls(LabelledDataset(dataset, labels), target, **arguments)

    @property
    def domains(self) -> Mapping[str, Dataset] | Sources | None:
        """The training domains as given. May be assigned in ``setup``; the stream then continues by domain name."""
        return self._given_domains if self._domains is not None else None

    @domains.setter
    def domains(self, domains: Mapping[str, Dataset] | Sources) -> None:
        check_domains(domains)
        sources = DatasetPerDomain(domains) if isinstance(domains, Mapping) else domains
        earlier = self.state_dict() if self._stream is not None and sources.names != self.domain_names else None
        if self._loader is not None:
            self._loader.close()
            self._stream_state = self._loader.stream_state(self._composition.position)
        self._given_domains, self._domains = domains, sources
        self._loader = self._probes = None
        if earlier is not None:
            self._stream = None
        _ = self._composition
        if earlier is not None and earlier["composition"]["position"]:
            self._resume_from(earlier)
        if self._waiting:
            waiting, self._waiting = self._waiting, {}
            self._resume_from(dict(waiting))

    @property
    def target(self) -> Dataset | Mapping[str, Dataset] | None:
        """The target set as it was given, or several by name. May be assigned in ``setup``."""
        return self._given_target if self._targets is not None else None

    @target.setter
    def target(self, target: Dataset | Mapping[str, Dataset]) -> None:
        named = target if isinstance(target, Mapping) else {"target": target}
        self._given_target, self._targets = target, DatasetPerDomain(named, "target")
        self._probes = None

    @property
    def val(self) -> Evaluation:
        """Validation data as they were given. May be assigned in ``setup``."""
        return self._evaluation["val"]

    @val.setter
    def val(self, data: Evaluation) -> None:
        self._evaluate("val", data)

    @property
    def test(self) -> Evaluation:
        """Test data as they were given. May be assigned in ``setup``."""
        return self._evaluation["test"]

    @test.setter
    def test(self, data: Evaluation) -> None:
        self._evaluate("test", data)

    @property
    def domain_names(self) -> tuple[str, ...]:
        """The k domain names, in the order of every weight and alignment."""
        return self._sources.names

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of the targets; ``("target",)`` for a single target without a name, empty without a target."""
        return self._targets.names if self._targets is not None else ()

    @property
    def weights(self) -> Tensor:
        """The newest weights, ``[k]`` float64, a copy.

        Assigned before training, or in ``setup``, they are the initial weights; assigning the same again, as a
        ``setup`` that runs twice does, changes nothing.
        """
        return self._composition.weights

    @weights.setter
    def weights(self, weights: WeightsLike | None) -> None:
        self._first_weights = weights
        if self._stream is not None:
            given = as_weights(weights, self.domain_names)
            if self._given is None or not torch.equal(given, self._given):
                self.set_weights(given)
                self._given = given

    @property
    def weights_by_name(self) -> dict[str, float]:
        """The newest weight of each domain."""
        return dict(zip(self.domain_names, self.weights.tolist(), strict=True))

    @property
    def weights_version(self) -> int:
        """Number of times that the weights have been set."""
        return self._composition.version

    def set_weights(self, weights: WeightsLike) -> None:
        """Changes the mixture, from the next batch on (or ``max_staleness`` batches later).

        All ranks must set the same weights at the same step.

        Args:
            weights: A mapping that names every domain, or k numbers; normalised.

        Raises:
            ValueError: If they are not usable; the weights stay as they were.
        """
        new = as_weights(weights, self.domain_names)
        if self.trainer is None and not self._composition.position:
            # set by the user before the run: the initial weights
            self._given = new
        self._composition.set_weights(new)
        if self._loader is not None:
            self._loader.recall()

    @property
    def current_batch(self) -> BatchInfo | None:
        """The origin of the samples in the batch that is being trained on; ``None`` before the first batch."""
        return self._loader.current if self._loader is not None else None

    @property
    def samples_seen(self) -> Tensor:
        """Training samples drawn from each domain so far, over all ranks, ``[k]`` int64."""
        if self._domains is None:
            return torch.zeros(0, dtype=torch.int64)
        return self._composition.counts()

    @property
    def domain_sizes(self) -> Tensor:
        """Samples in each domain, ``[k]`` int64; 0 for an iterable, whose size is not known."""
        return torch.from_numpy(self._sources.sizes.copy())

    @property
    def staleness(self) -> int:
        """Batches handed to training under older weights since the newest were set: 0 to ``max_staleness``."""
        return -(-self._composition.stale_samples // (self.batch_size * self._rank_and_world_size()[1]))

    @property
    def epochs_seen(self) -> Tensor:
        """Number of epochs of each domain seen so far, ``[k]`` float64; NaN for an iterable of unknown size."""
        sizes = self.domain_sizes.double()
        return torch.where(sizes > 0, self.samples_seen / sizes, torch.nan)

    @property
    def batches_per_epoch(self) -> int:
        """Training batches per rank in an epoch."""
        return self._batches_per_epoch or self._epoch(self.batch_size * self._rank_and_world_size()[1])

    def probes(self, update: int, size: int, *, target: int = 0, mixtures: Tensor | None = None) -> Probes:
        """This rank's share of the probes of an update: ``size`` samples of every domain, and target samples.

        Args:
            update: Number of the update, which determines the samples.
            size: Samples of each domain, over all ranks.
            target: Index of the target.
            mixtures: If given, ``size`` samples are drawn from each of these mixtures of the domains instead,
                ``[N, k]``, rows on the simplex. Domains must be map-style.
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
        self._resume()
        batch = self.batch_size * world_size
        self._composition.lag = self._max_staleness * batch
        self._composition.run_length = self.batch_size if self.pure_batches else 1
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
            before_batch=self._before_batch,
            repeats=self._repeats(),
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
            self._restored = False
            self._handover.give(self.trainer, self.state_dict)

    @override
    def on_exception(self, exception: BaseException) -> None:
        self._close()
        self._restored = False

    @override
    def state_dict(self) -> dict[str, Any]:
        """The mixture's state: the same on every rank, of a size that does not grow with the run."""
        if self._domains is None:
            return dict(self._waiting)
        return self._window.state(self.trainer) or self._state(completed=not self._batch_in_progress())

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the stream from the state. Does nothing if the Trainer only evaluates.

        If settings differ from the checkpoint's, the present ones apply, with a message: ``weights`` (unless a callback
        moves them, in which case the checkpoint's apply), ``seed``, ``batch_size``, data of another size, and domains
        that were added or removed, while the others keep their position.

        Raises:
            ValueError: If the state has another ``sampling``, or other domains while a callback holds state for each
                domain.
        """
        if self._evaluates():
            return
        self._restored = True
        if state_dict:
            self._again = int(state_dict.get("again", 0))
            if self._domains is None:
                # for when `setup` has made them
                self._waiting = state_dict
                return
            callbacks = self.trainer.callbacks if self.trainer is not None else []  # type: ignore[attr-defined]
            self._resume_from(state_dict, [one for one in callbacks if hasattr(one, "moves_weights")])

    def __getstate__(self) -> dict[str, Any]:
        """The state for a copy: at the same position of the stream, without the Trainer, workers and readers."""
        state = self.__dict__ | {"trainer": None, "_loader": None, "_probes": None, "_window": AccumulationWindow()}
        if self._loader is not None:
            state["_stream_state"] = self._loader.stream_state(self._composition.position)
        for name in ("val_dataloader", "test_dataloader"):
            state.pop(name, None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for name, data in self._evaluation.items():
            self._evaluate(name, data)

    @override
    def __repr__(self) -> str:
        arguments = f"batch_size={self.batch_size}"
        if self._domains is None:
            return f"{type(self).__name__}(no domains yet, {arguments})"
        k = len(self.domain_names)
        weights = self.weights
        largest = weights.topk(min(k, _SHOWN)).indices.sort().values.tolist()
        shown = ", ".join(f"{self.domain_names[i]} {weights[i]:.3g}" for i in largest)
        shown += f", … ({k} domains)" if k > _SHOWN else ""
        targets = ", ".join(self.target_names) if self._targets is not None else "none yet"
        return f"{type(self).__name__}({shown}; target: {targets}; {arguments}, {self.samples_seen.sum()} samples seen)"

    __str__ = __repr__

    @property
    def _sources(self) -> Sources:
        if self._domains is None:
            raise self._missing("domains", "a mapping from each domain's name to its data set")
        return self._domains

    @property
    def _composition(self) -> Composition:
        if self._stream is None:
            run_length = self.batch_size if self.pure_batches else 1
            given = as_weights(self._first_weights, self.domain_names)
            self._stream = Composition(given, self.seed, sampling=self._sampling, run_length=run_length)
            self._given = given
        state = self._handover.take()
        if state is not None and tuple(state["domain_names"]) == self.domain_names:
            self._stream.load_state_dict(state["composition"], self.seed)
            self._stream_state = state["streams"]
        return self._stream

    def _missing(self, argument: str, what: str) -> Exception:
        return MisconfigurationException(
            f"{type(self).__name__} has no `{argument}`: give {what} to `super().__init__`, or assign "
            f"`self.{argument}` in `setup(stage)`, which Lightning calls on every rank."
        )

    def _evaluate(self, name: str, data: Evaluation) -> None:
        check_evaluation(name, data)
        self._evaluation[name] = data
        loader = f"{name}_dataloader"
        if data is None and type(self).setup is LightningDataModule.setup:
            # the base class's hook, by which Lightning knows that there is no such loader, and does not warn
            setattr(self, loader, MethodType(getattr(LightningDataModule, loader), self))
        else:
            self.__dict__.pop(loader, None)

    def _evaluates(self) -> bool:
        state = self.trainer.state if self.trainer is not None else None
        return state is not None and state.status == "running" and state.fn != "fit"

    def _state(self, *, completed: bool = True) -> dict[str, Any]:
        composition = self._composition.state_dict(completed=completed)
        streams = self._loader.stream_state(composition["position"]) if self._loader else self._stream_state
        return {
            "domain_names": list(self.domain_names),
            "composition": composition,
            "streams": streams,
            "settings": self._settings(),
        }

    def _settings(self) -> dict[str, Any]:
        assert self._given is not None
        targets = self._targets
        sizes = dict(zip(targets.names, targets.sizes.tolist(), strict=True)) if targets is not None else {}
        batch = self.batch_size * self._rank_and_world_size()[1]
        return description(self._given, self._sources.sizes, sizes, self.seed, batch)

    def _resume_from(self, state: dict[str, Any], steering: Sequence[Any] = ()) -> None:
        """Restores a state into this mixture, whose settings may differ, and reports the consequences."""
        names = self.domain_names
        first = self._composition.weights if self._given is None else self._given
        chosen = first if self._first_weights is not None else None
        state, settings, told = for_domains(state, names, chosen, steered=bool(steering))
        self._composition.load_state_dict(state["composition"], self.seed)
        self._given = first
        self._stream_state = state["streams"]
        if self._loader is not None:
            self._loader.restart(self._stream_state)
        now = self._settings()
        told += differences(settings, now, names, self._composition.position)
        if settings.get("given", now["given"]) != now["given"]:
            moved = any(callback.moves_weights for callback in steering)
            told.append(OTHER_WEIGHTS[moved])
            if not moved:
                self._composition.set_weights(first)
        if told and self._composition.position:
            rank_zero_warn(f"{type(self).__name__} resumes with other settings: {'; '.join(told)}.")

    def _resume(self) -> None:
        """Completes resuming from a checkpoint when training starts."""
        trainer = self.trainer
        if trainer is None or not trainer.ckpt_path or trainer.state.fn != "fit":
            return
        if not self._restored:
            state, told = of_another_class(trainer, type(self).__qualname__)
            rank_zero_warn(told)
            self._restored = True
            if state is not None:
                self.load_state_dict(state)
        if self._again:
            take_again(trainer, self._again)
            self._again = 0

    def _repeats(self) -> int | None:
        """Number of batches that Lightning's ``overfit_batches`` repeats in every epoch."""
        wanted = getattr(self.trainer, "overfit_batches", 0)
        if not wanted:
            return None
        length = self.batches_per_epoch
        return max(min(wanted, length) if isinstance(wanted, int) else int(wanted * length), 1)

    def _before_batch(self) -> None:
        if self.trainer is not None:
            self._window.before_batch(self.trainer, self._state)

    def _batch_in_progress(self) -> bool:
        """Whether training holds a batch whose step is not done, as when a signal or an error ends the run."""
        if self.trainer is None:
            return False
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
        return bool(progress.ready > progress.processed)

    def _rank_and_world_size(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        # tensor-parallel ranks share their data; the strategy knows which ones
        sampler = getattr(self.trainer.strategy, "distributed_sampler_kwargs", None)
        return (sampler["rank"], sampler["num_replicas"]) if sampler else (0, 1)

    def _probe_reader(self) -> ProbeReader:
        if self._probes is None:
            self._probes = ProbeReader(
                self._sources,
                self._targets or NoDomains(),
                self._collate_fn,
                seed=self.seed,
                most=self.batch_size,
                random_seed=random_seed(self.seed),
            )
        # a tuner may have changed it
        self._probes.most = self.batch_size
        return self._probes

    def _epoch(self, batch: int) -> int:
        sizes = self._sources.sizes
        return -(-int(sizes.sum()) // batch) if (sizes > 0).all() else _STREAM_EPOCH

    def _evaluation_loader(self, name: str) -> Any:
        def make(data: Any) -> DataLoader:
            return WorkerLoader(data, batch_size=self.batch_size, collate_fn=self._collate_fn, **self._workers)

        return evaluation_loaders(self._evaluation[name], make)

    def _close(self) -> None:
        if self._loader is not None:
            self._loader.close()
