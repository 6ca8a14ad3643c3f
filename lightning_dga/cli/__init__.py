"""The commands ``dga-train``, ``dga-domains`` and ``dga-report``, and the cost plan of a run."""
