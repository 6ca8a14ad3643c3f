"""Modules that moved to another subpackage can still be imported by their old names, with a ``DeprecationWarning``."""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

_ROOT = __name__.partition(".")[0]
# old name: new name; a package covers all of its modules. What moved to a folder of its own room is not listed
_MOVED = {
    "advice": "engine.advice",
    "alignment.directions": "alignment.per_sample.layer_products",
    "alignments": "core.alignments",
    "arguments": "core.arguments",
    "averages": "engine.alignment_averages",
    "basis": "core.basis",
    "callback": "callbacks.dynamic_gradient_alignment",
    "callbacks.watchdog": "engine.watchdog",
    "checkpoints": "callbacks.checkpoints",
    "config_check": "cli.config_check",
    "data.parcel": "data.loading.worker_message",
    "data.runs": "data.sampling.blocks",
    "data.text.cache": "data.text.tokens.tokenized_corpus",
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
    return _deeper(*name.removeprefix(f"{_ROOT}.").split("."))


def _deeper(*parts: str) -> str | None:
    """The module of the same name in a folder below, if it is the only one and there is none in the old place."""
    *rooms, module = parts
    folder = Path(__file__).parent.joinpath(*rooms)
    if not rooms or (folder / module).is_dir() or (folder / f"{module}.py").is_file():
        return None
    found = [file.relative_to(folder).with_suffix("").parts for file in folder.rglob(f"{module}.py")]
    return ".".join([_ROOT, *rooms, *found[0]]) if len(found) == 1 else None


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
