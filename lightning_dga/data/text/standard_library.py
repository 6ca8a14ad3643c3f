"""A corpus that needs no download: text of several kinds from the standard library of the running Python."""


from lightning_dga.data.text.corpus import TextCorpus

DOMAIN_CHARACTERS = 500_000
MANUAL_CHARACTERS = 64_000


def standard_library_corpus(target_documents: int = 8) -> TextCorpus:
    pass
