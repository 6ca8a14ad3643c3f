"""Modules that moved to another subpackage can still be imported by their old names, with a ``DeprecationWarning``."""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import CodeType, ModuleType
from typing import Any

_ROOT = __name__.partition(".")[0]
# old name: new name; a package covers all of its modules
_MOVED = {
    "advice": "engine.advice",
    "alignment.auto": "alignment.estimators.auto",
    "alignment.backward": "alignment.estimators.backward",
    "alignment.batched": "alignment.estimators.batched",
    "alignment.compiled": "alignment.probing.compiled",
    "alignment.directions": "alignment.per_sample.layer_products",
    "alignment.evaluation_loss": "alignment.probing.evaluation_loss",
    "alignment.finite_difference": "alignment.estimators.finite_difference",
    "alignment.gradient": "alignment.gradients.gradient",
    "alignment.in_step": "alignment.estimators.in_step",
    "alignment.isolation": "alignment.probing.isolation",
    "alignment.layers": "alignment.per_sample.layers",
    "alignment.loss": "alignment.probing.loss",
    "alignment.losses": "alignment.estimators.losses",
    "alignment.modes": "alignment.probing.modes",
    "alignment.origins": "alignment.probing.origins",
    "alignment.plan": "alignment.per_sample.plan",
    "alignment.preconditioner": "alignment.gradients.preconditioner",
    "alignment.probes": "alignment.probing.probes",
    "alignment.rehearsal": "alignment.estimators.rehearsal",
    "alignment.samples": "alignment.per_sample.samples",
    "alignment.self_test": "alignment.estimators.self_test",
    "alignment.snapshots": "alignment.probing.snapshots",
    "alignment.sums": "alignment.gradients.sums",
    "alignment.target": "alignment.gradients.target",
    "alignment.watches": "alignment.per_sample.watches",
    "alignment.writes": "alignment.probing.writes",
    "alignments": "core.alignments",
    "arguments": "core.arguments",
    "averages": "engine.alignment_averages",
    "basis": "core.basis",
    "callback": "callbacks.dynamic_gradient_alignment",
    "callbacks.watchdog": "engine.watchdog",
    "checkpoints": "callbacks.checkpoints",
    "config_check": "cli.config_check",
    "data.batches": "data.loading.batches",
    "data.composition": "data.sampling.composition",
    "data.digest": "data.streaming.digest",
    "data.generators": "data.loading.generators",
    "data.hub_streams": "data.streaming.hub_streams",
    "data.loader": "data.loading.loader",
    "data.multinomial": "data.sampling.multinomial",
    "data.parcel": "data.loading.worker_message",
    "data.passes": "data.streaming.passes",
    "data.permutation": "data.sampling.permutation",
    "data.quota": "data.sampling.quota",
    "data.reading": "data.streaming.reading",
    "data.resumable": "data.streaming.resumable",
    "data.runs": "data.sampling.blocks",
    "data.segment": "data.sampling.segment",
    "data.sharded_streams": "data.streaming.sharded_streams",
    "data.streams": "data.streaming.streams",
    "data.text.bin_builder": "data.text.builders.bin_builder",
    "data.text.cache": "data.text.tokens.tokenized_corpus",
    "data.text.clustered": "data.text.builders.clustered",
    "data.text.document_stream": "data.text.readers.document_stream",
    "data.text.documents": "data.text.readers.documents",
    "data.text.encoder": "data.text.tokens.encoder",
    "data.text.files": "data.text.readers.files",
    "data.text.fingerprint": "data.text.readers.fingerprint",
    "data.text.folder_corpus": "data.text.builders.folder_corpus",
    "data.text.json_lines": "data.text.readers.json_lines",
    "data.text.listing": "data.text.readers.listing",
    "data.text.mixture": "data.text.builders.mixture",
    "data.text.packed_stream": "data.text.tokens.packed_stream",
    "data.text.packing": "data.text.tokens.packing",
    "data.text.parquet": "data.text.readers.parquet",
    "data.text.plain_text": "data.text.readers.plain_text",
    "data.text.recipes": "data.text.builders.recipes",
    "data.text.split": "data.text.readers.split",
    "data.text.standard_library": "data.text.builders.standard_library",
    "data.text.token_bin": "data.text.tokens.token_bin",
    "data.text.tokenized_corpus": "data.text.tokens.tokenized_corpus",
    "data.text.tokenizer": "data.text.tokens.tokenizer",
    "data.window": "data.loading.window",
    "data.workers": "data.loading.workers",
    "document_digest": "core.document_digest",
    "domains.leaves": "domains.leaf_counts",
    "domains.checkpoint": "domains.resumable_stage",
    "domains.rows": "domains.resumable_stage",
    "domains.stage": "domains.resumable_stage",
    "exposure": "core.data_budget",
    "make_domains": "cli.domains",
    "measuring": "engine.measurement",
    "mixture": "engine.protocols",
    "moments": "core.moving_moments",
    "monitoring": "callbacks.monitoring",
    "planning": "cli.plan",
    "preemption": "callbacks.preemption",
    "progress": "callbacks.progress_bar",
    "recorder": "callbacks.run_recorder",
    "report.cli": "cli.report",
    "resuming": "engine.resuming",
    "run_length": "callbacks.run_length",
    "run_lock": "cli.run_lock",
    "run_logger": "callbacks.run_logger",
    "run_settings": "cli.run_settings",
    "scaling": "alignment.cost",
    "side_files": "callbacks.side_files",
    "steps": "callbacks.steps",
    "train": "cli.train",
    "trainer_settings": "cli.trainer_settings",
    "usual_norm": "core.usual_norm",
    "watchdog": "engine.watchdog",
    "weights": "core.weights",
    "yaml_names": "core.yaml_names",
}


def new_name(name: str) -> str | None:
    """The new name of a module that moved, ``None`` for any other.

    Args:
        name: A full module name, as ``lightning_dga.callback``.

    Example:
        >>> new_name("lightning_dga.make_domains.histogram")
        'lightning_dga.cli.domains.histogram'
    """
    own, rest = name.removeprefix(f"{_ROOT}."), ""
    while own:
        if own in _MOVED:
            return f"{_ROOT}.{_MOVED[own]}{rest}"
        own, _, last = own.rpartition(".")
        rest = f".{last}{rest}"
    return None


class _MovedLoader(InspectLoader):
    """Loads the module of the new name in place of the old one."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._own: dict[str, Any] = {}

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        warnings.warn(f"{spec.name} is {self._target} now.", DeprecationWarning, stacklevel=2)
        module = import_module(self._target)
        self._own = {name: getattr(module, name, None) for name in ("__spec__", "__loader__", "__package__")}
        return module

    def exec_module(self, module: ModuleType) -> None:
        # the import system has just set these attributes to those of the old name
        vars(module).update(self._own)

    def get_code(self, fullname: str) -> CodeType | None:
        """For ``python -m`` with the old name."""
        spec = find_spec(self._target)
        assert spec is not None and isinstance(spec.loader, InspectLoader)
        return spec.loader.get_code(self._target)

    def get_source(self, fullname: str) -> str | None:
        spec = find_spec(self._target)
        assert spec is not None and isinstance(spec.loader, InspectLoader)
        return spec.loader.get_source(self._target)


class MovedFinder(MetaPathFinder):
    """Finds modules by the names that they had before they moved; see :data:`sys.meta_path`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See :class:`importlib.abc.MetaPathFinder`."""
        if not fullname.startswith(f"{_ROOT}."):
            return None
        moved = new_name(fullname)
        found = find_spec(moved) if moved is not None else None
        if moved is None or found is None:
            return None
        spec = ModuleSpec(fullname, _MovedLoader(moved), origin=found.origin)
        spec.submodule_search_locations = found.submodule_search_locations
        return spec


def install() -> None:
    """Inserts the finder before path-based finders, which would load a moved package's modules twice."""
    if not any(isinstance(finder, MovedFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, MovedFinder())
