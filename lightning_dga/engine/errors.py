"""Errors of the engine, which knows no framework's own error types."""


class ConfigurationError(ValueError):
    """The model, the mixture and the settings do not fit together; the message says why, and how to change that."""
