"""An index from embeddings, and more embeddings into one."""

import contextlib
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np

from cola_msa.collection.search import approximate, folder, index, names
from cola_msa.collection.search.approximate import GRAPH, ROWS, Approximate, Form
from cola_msa.collection.search.contract import (
    Index,
    SearchError,
    describe,
)
from cola_msa.collection.search.folder import FLAT_ROWS, FolderIndex, State
from cola_msa.collection.search.index import SUFFIX, SearchIndex
from cola_msa.collection.search.locality import inverse, reorder, write_pieces
from cola_msa.collection.search.measure import PROMISED, Exact, choose_queries
from cola_msa.collection.table.clips import Clips
from cola_msa.collection.table.read import SUFFIXES, Embeddings
from cola_msa.system.console import progress_bar
from cola_msa.system.errors import UsageError, one_line
from cola_msa.system.files import temporary_folder
from cola_msa.system.folders import replace_folder
from cola_msa.system.locks import Lock
from cola_msa.values.arrays import row_blocks, write_raw

FLAT_ROWS_MOST = 50_000  # with more a query takes a second
_GRAPH_BYTES = 4 << 30  # of rows that an HNSW is built of in memory
# What must be equal for embeddings of one index.
_SAME = ("model_hash", "clip_embedding", "hop_seconds")


def build(
    embeddings: str | None,
    output: str | None,
    metric: str,
    kind: str | None = None,
    is_quiet: bool = True,
) -> str:
    """Writes an index; returns what to tell the user.

    Args:
        embeddings: A file or a dataset of embeddings; windows are averaged to clips.
        output: A name that ends in .npz is one file, and flat; any other is a folder.
        metric: `cosine` or `euclidean`.
        kind: One of KINDS; None for flat up to 50,000 clips and in .npz, above for
            the one that fits.
        is_quiet: Without progress bars.

    Raises:
        UsageError: If a flag is missing, or kind and name do not fit.
        FileError: If something else than an index is at `output`.
        LockedError: If another process writes the index there.
        EmbeddingFileError: If the embeddings cannot be read.
        NeighbourError: If FAISS is needed and missing.
        SearchError: If there are too few clips for the kind.
    """
    if not embeddings or not output:
        raise UsageError("build needs --embeddings=FILE and --output=INDEX")
    path = pathlib.Path(output)
    if path.suffix == SUFFIX:
        if kind not in (None, "flat"):
            raise UsageError(
                f"--output={output}: an index of kind {kind} is a folder; a name that "
                f"ends in {SUFFIX} is a file"
            )
        index.check_output(output)
        with _locked(output):
            built = index.build_index(embeddings, metric)
            built.save(output)
        told = one_line(f"{output}: {describe(built)}")
        if kind is None and built.num_rows > FLAT_ROWS_MOST:
            told += (
                f"\nevery query compares with all of them: name a folder (no {SUFFIX}) "
                "for an index that need not"
            )
        return told
    if path.suffix in SUFFIXES:
        raise UsageError(
            f"--output={output} is a name for embeddings; an index is an {SUFFIX} file "
            "or a folder"
        )
    folder.check_output(output)
    if kind not in (None, "flat"):
        approximate.import_faiss()
    with _fresh_folder(output) as temporary, contextlib.ExitStack() as stack:
        scratch = temporary / "scratch"
        scratch.mkdir()
        clips = stack.enter_context(Clips(embeddings, scratch, is_quiet))
        chosen, reason = (kind, "") if kind else _choose(clips.num_rows, clips.dim)
        state, order = _write_rows(temporary, clips, chosen, metric, is_quiet)
        paths, sha256 = clips.paths, clips.sha256
        if order is not None:
            paths = tuple(paths[row] for row in order)
            sha256 = tuple(sha256[row] for row in order)
        names.write_names(temporary, paths, sha256)
        shutil.rmtree(scratch)
        folder.write_state(temporary, state)
    return _tell(output, reason)


def _choose(num_rows: int, dim: int) -> tuple[str, str]:
    """The kind that fits, and why."""
    if num_rows <= FLAT_ROWS_MOST:
        return "flat", ""
    size = 2 * num_rows * dim
    more = f"more than {FLAT_ROWS_MOST:,} clips"
    if size <= _GRAPH_BYTES:
        return "hnsw", f"--index=hnsw: {more} ({size / 1e9:.1f} GB in memory to build)"
    return "ivfpq", f"--index=ivfpq: {more}, too many to build an hnsw in memory"


def _tell(path: str, reason: str = "") -> str:
    built = index.open_index(path)
    lines = [f"{path}: {describe(built)}"]
    if reason:
        lines.append(reason)
    if built.recall is not None and built.recall.share < PROMISED:
        lines.append(
            f"its recall is below {PROMISED}: these embeddings hardly differ by "
            "direction or distance; --index=flat finds all"
        )
    return "\n".join(map(one_line, lines))


@contextlib.contextmanager
def _fresh_folder(output: str) -> Iterator[pathlib.Path]:
    """A folder that becomes the index when all went well."""
    with _locked(output), temporary_folder(output) as temporary:
        yield temporary
        replace_folder(temporary, output, folder.listing, folder.WHAT)


def _write_rows(
    target: pathlib.Path, clips: Clips, kind: str, metric: str, is_quiet: bool
) -> tuple[State, np.ndarray | None]:
    """Writes the rows; which clip each is, int64 [n], where the order is another."""
    shape = clips.num_rows, clips.dim
    if kind == "flat":
        title = "writing"
        with (
            progress_bar(shape[0], title, "rows", not is_quiet) as bar,
            open(target / FLAT_ROWS, "wb") as file,
        ):
            for _, rows in clips.blocks():
                write_raw(file, rows.astype("<f4"))
                bar.update(len(rows))
        return State(kind, metric, *shape, clips.metadata, Form(metric)), None
    if shape[0] < (fewest := approximate.FEWEST_ROWS[kind]):
        raise SearchError(
            f"an index of kind {kind} is trained with {fewest:,} clips or more, and "
            f"here are {shape[0]:,}: --index=flat"
        )
    form = approximate.find_form(metric, clips.blocks(), shape[1])
    asked = choose_queries(shape[0])
    queries = np.zeros((len(asked), shape[1]), np.float32)

    def noted() -> Iterator[np.ndarray]:
        for first, rows in clips.blocks():
            part = (asked >= first) & (asked < first + len(rows))
            queries[part] = rows[asked[part] - first]
            yield rows

    if kind == "hnsw":
        nothing = np.zeros((1, shape[1]), np.float32)
        graph = approximate.new_graph(kind, shape[0], metric, nothing)
        _add_rows(graph, form, noted(), shape[0], is_quiet)
    else:
        _write_stored(target / ROWS, form, noted(), shape[0], is_quiet)
        rows = np.memmap(target / ROWS, "<f2", "r", 0, shape)
        graph = approximate.new_graph(kind, shape[0], metric, _sample(rows, kind))
        blocks = (block for _, block in row_blocks(rows))
        _add_rows(graph, None, blocks, shape[0], is_quiet)
    settings = approximate.settings_of(graph)
    order = approximate.find_order(graph)
    places = inverse(order)
    if kind == "ivfpq":
        reorder(target / "ordered", rows, order)
        del rows
        (target / "ordered").replace(target / ROWS)
    asked = places[asked]
    stored, near = _reopen(target, graph, kind, form, shape, order)
    del graph
    exact = Exact(form, asked, queries, clips.blocks(), shape[0], is_quiet, places)
    effort, recall = exact.tune(near, stored, kind)
    state = State(kind, metric, *shape, clips.metadata, form, effort, recall, settings)
    return state, order


def _sample(stored: np.ndarray, kind: str) -> np.ndarray:
    """Rows to train with, float32; block by block, so that few are held."""
    count = approximate.num_samples(kind, *stored.shape)
    random = np.random.default_rng(1)
    chosen = np.sort(random.choice(len(stored), count, replace=False))
    sample = np.empty((count, stored.shape[1]), np.float32)
    for first, rows in row_blocks(stored):
        part = slice(*np.searchsorted(chosen, [first, first + len(rows)]))
        sample[part] = rows[chosen[part] - first]
    return sample


def _add_rows(
    graph: Any,
    form: Form | None,
    blocks: Iterator[np.ndarray],
    num_rows: int,
    is_quiet: bool,
) -> None:
    """Adds rows to a FAISS index; of `form`, or stored already."""
    with progress_bar(num_rows, "adding", "rows", not is_quiet) as bar:
        for rows in blocks:
            stored = rows if form is None else _rounded(form, rows)
            graph.add(np.ascontiguousarray(stored, np.float32))
            bar.update(len(rows))


def _write_stored(
    path: pathlib.Path,
    form: Form,
    blocks: Iterator[np.ndarray],
    num_rows: int,
    is_quiet: bool,
) -> None:
    with (
        progress_bar(num_rows, "writing", "rows", not is_quiet) as bar,
        open(path, "ab") as file,
    ):
        for rows in blocks:
            write_pieces(file, _rounded(form, rows))
            bar.update(len(rows))


def _rounded(form: Form, rows: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        stored = form.store(rows).astype("<f2")
    if not np.isfinite(stored).all():
        raise SearchError(
            "the embeddings lie far outside of those that the index was built of: "
            "build it anew, of all"
        )
    return stored


def _reopen(
    target: pathlib.Path,
    graph: Any,
    kind: str,
    form: Form,
    shape: tuple[int, int],
    order: np.ndarray | None = None,
) -> tuple[np.ndarray, Approximate]:
    """Writes the FAISS index, and opens what was written as a query does."""
    path = target / GRAPH
    approximate.write_graph(graph, path, order)
    head = approximate.head_bytes(kind, path.stat().st_size, *shape)
    if kind == "hnsw":
        stored = np.memmap(path, "<f2", "r", head, shape)
    else:
        stored = np.memmap(target / ROWS, "<f2", "r", 0, shape)
    opened = approximate.read_graph(path, kind)
    return stored, Approximate(opened, kind, stored, form)


def add(path: str | None, embeddings: str | None, is_quiet: bool = True) -> str:
    """Adds embeddings to an index; returns what to tell the user.

    Clips that it has (the same path and content) are left out, and so are those of
    which it has another content under their path: what an index holds never changes.

    Args:
        path: The index; what it is afterwards stands in its place as a whole.
        embeddings: A file or a dataset of embeddings.
        is_quiet: Without progress bars.

    Raises:
        UsageError: If a flag is missing.
        LockedError: If another process writes it.
        EmbeddingFileError: If the embeddings cannot be read.
        SearchError: If the index is damaged, or the embeddings are another encoder's.
    """
    if not path or not embeddings:
        raise UsageError("add needs --index=INDEX and --embeddings=FILE")
    index.open_index(path)  # whatever else lies there is no place for a lock
    with _locked(path):
        opened = index.open_index(path)
        return _add(opened, path, embeddings, is_quiet)


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Keeps others from replacing an index; where there is none there is no lock.

    Raises:
        LockedError: If another process adds to it, or builds it anew.
        SearchError: If it was replaced just now.
    """
    inner = pathlib.Path(path)
    if inner.is_dir():
        inner /= folder.STATE
    if not inner.is_file():
        yield
        return
    with Lock(inner, f"{path}: another process writes it; wait for it") as lock:
        if not lock.is_in_place():
            raise SearchError(f"{path}: another process has replaced it; try again")
        yield


def _add(opened: Index, path: str, embeddings: str, is_quiet: bool) -> str:
    with contextlib.ExitStack() as stack:
        # Beside the index, where there is room for it.
        temporary = stack.enter_context(temporary_folder(path))
        scratch = temporary / "scratch"
        scratch.mkdir()
        clips = stack.enter_context(Clips(embeddings, scratch, is_quiet))
        _check_same(opened, clips, path, embeddings)
        told, is_new = _find_new(opened, clips)
        if not is_new.any():
            return f"{one_line(path)}: nothing to add\n{told}".rstrip()
        chosen = _Chosen(clips, is_new)
        if isinstance(opened, FolderIndex):
            folder.check_whole(opened.folder, opened.described)
            state = _extend(temporary, opened, chosen, is_quiet)
            names.write_names(temporary, chosen.paths, chosen.sha256, opened.names)
            shutil.rmtree(scratch)
            folder.write_state(temporary, state)
            replace_folder(temporary, path, folder.listing, folder.WHAT)
        else:
            assert isinstance(opened, SearchIndex)
            _join(opened, chosen).save(path)
    return f"{_tell(path)}\n{len(chosen.paths):,} clips added\n{told}".rstrip()


def _check_same(opened: Index, clips: Clips, path: str, embeddings: str) -> None:
    if clips.dim != opened.dim:
        raise SearchError(
            f"{embeddings}: has {clips.dim} values a clip, the index {opened.dim}: "
            "they come from different encoders"
        )
    for name in _SAME:
        own, other = opened.metadata.get(name), clips.metadata.get(name)
        if own != other:
            raise SearchError(
                f"{embeddings}: its {name} is {other!r:.40}, and the index has "
                f"{own!r:.40}: embed it as the index's embeddings were"
            )


def _find_new(opened: Index, clips: Clips) -> tuple[str, np.ndarray]:
    """What to tell of clips that are there, and which are not, bool [n]."""
    is_new = np.ones(clips.num_rows, bool)
    num_same, changed = 0, []
    known: dict[str, str] | None = None
    if isinstance(opened, SearchIndex):
        known = dict(zip(opened.table.paths, opened.table.sha256, strict=True))
    for row, (name, digest) in enumerate(zip(clips.paths, clips.sha256, strict=True)):
        if known is not None:
            found = known.get(name)
        else:
            assert isinstance(opened, FolderIndex)
            found = opened.names.content(name)
        if found is not None:
            is_new[row] = False
            num_same += found == digest
            changed += [name] if found != digest else []
    lines = []
    if num_same:
        lines.append(f"{num_same:,} clips were there already")
    if changed:
        lines.append(
            f"{len(changed):,} files have changed since, such as {changed[0]}: the "
            "index keeps what it had of them; build it anew for what they are now"
        )
    return "\n".join(map(one_line, lines)), is_new


class _Chosen:
    """Some of the clips of a table."""

    def __init__(self, clips: Clips, is_chosen: np.ndarray):
        self._clips, self._is_chosen = clips, is_chosen
        rows = np.flatnonzero(is_chosen).tolist()
        self.paths = [clips.paths[row] for row in rows]
        self.sha256 = [clips.sha256[row] for row in rows]
        self.starts, self.seconds = clips.starts[rows], clips.seconds[rows]

    def blocks(self) -> Iterator[np.ndarray]:
        for first, rows in self._clips.blocks():
            chosen = rows[self._is_chosen[first : first + len(rows)]]
            if len(chosen):
                yield chosen


def _join(opened: SearchIndex, chosen: _Chosen) -> SearchIndex:
    table = opened.table
    joined = Embeddings(
        (*table.paths, *chosen.paths),
        (*table.sha256, *chosen.sha256),
        np.concatenate([table.starts, chosen.starts]),
        np.concatenate([table.seconds, chosen.seconds]),
        np.concatenate([table.embeddings, *chosen.blocks()]),
        table.metadata,
    )
    return SearchIndex(joined, opened.metric)


def _extend(
    target: pathlib.Path, opened: FolderIndex, chosen: _Chosen, is_quiet: bool
) -> State:
    state = opened.state
    kind, form, count = state.kind, state.form, len(chosen.paths)
    shape = state.num_rows + count, state.dim
    if kind == "flat":
        shutil.copyfile(opened.folder / FLAT_ROWS, target / FLAT_ROWS)
        with open(target / FLAT_ROWS, "ab") as file:
            for rows in chosen.blocks():
                write_raw(file, rows.astype("<f4"))
        return State(kind, state.metric, *shape, state.metadata, form)
    graph = approximate.read_graph(opened.folder / GRAPH, kind, is_mapped=False)
    if kind == "ivfpq":
        shutil.copyfile(opened.folder / ROWS, target / ROWS)
        _write_stored(target / ROWS, form, chosen.blocks(), count, True)
    _add_rows(graph, form, chosen.blocks(), count, is_quiet)
    stored, near = _reopen(target, graph, kind, form, shape)
    del graph
    asked = choose_queries(shape[0])
    blocks = (
        (first, form.restore(rows)) for first, rows in row_blocks(stored, 32 << 20)
    )
    queries = form.restore(stored[asked])
    exact = Exact(form, asked, queries, blocks, shape[0], is_quiet)
    effort, recall = exact.tune(near, stored, kind)
    return State(
        kind,
        state.metric,
        *shape,
        state.metadata,
        form,
        effort,
        recall,
        state.settings,
    )
