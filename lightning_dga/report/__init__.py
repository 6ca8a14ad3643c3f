"""Tables and pages from run folders; reads files only."""

from lightning_dga.report.page import page
from lightning_dga.report.run_folder import RunFolderError, WeightsTable, find_runs, read_metrics, read_weights
from lightning_dga.report.table import comparison

__all__ = ["RunFolderError", "WeightsTable", "comparison", "find_runs", "page", "read_metrics", "read_weights"]
