"""Lets every Hydra application choose our callback, as ``callbacks=dga``, once the package is installed.

What other applications see is the tree in ``conf/`` beside this file: ``callbacks/dga``, and the group
``dga/callbacks`` with the other rules. It needs no key of theirs, and it has no group or config that an application may
have itself but for that one, so that a config that is missing there stays an error.

Hydra imports its plugins whenever an application starts, so nothing heavy is imported here.
"""

from importlib.util import find_spec
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

SHARED_CONFIGS = Path(__file__).parent / "conf"


def config_dir() -> Path:
    """The config tree of ``dga-train``: inside the installed package, or beside it in a checkout."""
    spec = find_spec("lightning_dga")
    assert spec is not None and spec.origin is not None
    package = Path(spec.origin).parent
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


class LightningDGASearchPath(SearchPathPlugin):
    """Appends the configs for other applications, so that an application's own of the same name come first."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """See :class:`hydra.plugins.search_path_plugin.SearchPathPlugin`."""
        search_path.append(provider="lightning-dga", path=f"file://{SHARED_CONFIGS}")
