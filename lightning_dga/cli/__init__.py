"""The commands: ``dga-train``, ``dga-domains``, ``dga-report``, and the plan of a run."""
