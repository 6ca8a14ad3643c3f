"""Lets every Hydra application choose from our config groups, as ``callbacks=dga``, once the package is installed.

Hydra imports its plugins whenever an application starts, so nothing heavy is imported here.
"""

from importlib.util import find_spec
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


def config_dir() -> Path:
    """The config tree: inside the installed package, or beside it in a checkout."""
    spec = find_spec("lightning_dga")
    assert spec is not None and spec.origin is not None
    package = Path(spec.origin).parent
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


class LightningDGASearchPath(SearchPathPlugin):
    """Appends our config tree, so that an application's own configs of the same name come first."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """See :class:`hydra.plugins.search_path_plugin.SearchPathPlugin`."""
        known = {element.path.removeprefix("file://") for element in search_path.get_path() if element.path}
        if str(config_dir()) not in known:
            search_path.append(provider="lightning-dga", path=f"file://{config_dir()}")
