"""The error for domains that cannot be made or used."""


class DomainsError(ValueError):
    """A folder of domains, or a request about one, that cannot be used; the message says what to do."""
