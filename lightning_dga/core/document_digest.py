"""A digest of documents, to check whether derived files still belong to a corpus."""

import hashlib
from collections.abc import Iterable


class DocumentDigest:
    """SHA-256 of a sequence of documents; depends on the boundaries between documents, not only on their text.

    Example:
        >>> DocumentDigest(["ab", "c"]).hexdigest() == DocumentDigest(["a", "bc"]).hexdigest()
        False
    """

    def __init__(self, documents: Iterable[str] = ()) -> None:
        self._digest = hashlib.sha256()
        for document in documents:
            self.update(document)

    def update(self, document: str) -> None:
        """Takes the next document in."""
        text = document.encode()
        self._digest.update(b"%d:" % len(text))
        self._digest.update(text)

    def hexdigest(self) -> str:
        """The digest of all documents up to now."""
        return self._digest.hexdigest()
