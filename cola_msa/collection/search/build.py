"""An index from a file of embeddings."""

from cola_msa.collection.search.index import build_index, check_output, describe
from cola_msa.system.errors import UsageError


def build(embeddings: str | None, output: str | None, metric: str) -> str:
    """Writes an index; returns what to tell the user.

    Raises:
        UsageError: If a flag is missing, or `output` is no .npz file.
        FileError: If something else than an index is at `output`.
        EmbeddingFileError: If the embeddings cannot be read.
    """
    if not embeddings or not output:
        raise UsageError("build needs --embeddings=FILE and --output=INDEX.npz")
    check_output(output)
    index = build_index(embeddings, metric)
    index.save(output)
    return f"{output}: {describe(index)}"
