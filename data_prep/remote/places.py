"""Where a preparation reads and writes: folders, or addresses with stand-ins for them.

A stand-in is a folder in scratch space. Of a dataset it has all names, but only the
metadata's content; of an output the small files' content, and of each shard a file of
its size that takes no space. So everything but the work on shards itself goes on as if
all were local; workers download clips and upload shards themselves.
"""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence

from cola_msa.remote import addresses
from cola_msa.system.errors import FileError, UsageError, UserError, hide_logins
from data_prep.datasets.base import DatasetError
from data_prep.remote import inputs

STATE_NAME = "preparation.json"
_MANIFEST_NAME = "manifest.json"  # of cola_msa.records.schema, which imports TensorFlow
_SMALL_SUFFIXES = (".json", ".idx.npz")


class Places:
    """A run's folders.

    Attributes:
        dataset_dir: The dataset's root, or its stand-in.
        output_dir: The output folder, or its stand-in.
        dataset_url: The root's address, or None.
        output_url: The output's address, or None.
        unreadable: Reason by folder of the dataset's address that was not listed.
    """

    def __init__(
        self,
        dataset_dir: pathlib.Path,
        output_dir: pathlib.Path,
        dataset_url: str | None = None,
        output_url: str | None = None,
        unreadable: Mapping[str, str] | None = None,
    ):
        """Names the folders."""
        self.dataset_dir = dataset_dir
        self.output_dir = output_dir
        self.dataset_url = dataset_url
        self.output_url = output_url
        self.unreadable = dict(unreadable or {})
        self._states: dict[str, str] = {}

    def shown(self, line: str) -> str:
        """A message with addresses in place of their stand-ins."""
        for folder, url in (
            (self.dataset_dir, self.dataset_url),
            (self.output_dir, self.output_url),
        ):
            if url is not None:
                line = line.replace(str(folder), hide_logins(url))
        return line

    def refresh(self) -> None:
        """Brings the output's stand-in up to date.

        Raises:
            RemoteError: If the output cannot be read.
        """
        if self.output_url is None:
            return
        folder = addresses.open_folder(self.output_url)
        entries = {n: e for n, e in folder.list().items() if not n.startswith(".")}
        for name in set(self._states) - set(entries):
            (self.output_dir / name).unlink(missing_ok=True)
            del self._states[name]
        wanted = []
        for name, entry in entries.items():
            if entry.is_folder or self._states.get(name) == entry.state:
                continue
            if name.endswith(_SMALL_SUFFIXES):
                wanted.append(name)
            elif name.endswith(".tfrecord"):
                path = self.output_dir / name
                path.touch()
                os.truncate(path, entry.size)
                self._states[name] = entry.state
        folder.download_all(wanted, self.output_dir)
        self._states.update((name, entries[name].state) for name in wanted)

    def begin(self) -> None:
        """Tells the output what it is about to hold.

        Raises:
            RemoteError: If it cannot be written.
        """
        if self.output_url is not None:
            folder = addresses.open_folder(self.output_url)
            folder.delete(_MANIFEST_NAME)
            folder.upload(self.output_dir / STATE_NAME, STATE_NAME)

    def publish(self, splits: Collection[str]) -> None:
        """Uploads what a finished run adds to the shards; the manifest last.

        Args:
            splits: Names of the splits.

        Raises:
            RemoteError: If it cannot be written.
        """
        if self.output_url is not None:
            folder = addresses.open_folder(self.output_url)
            names = [f"index-{split}.npz" for split in splits]
            for name in (*names, _MANIFEST_NAME):
                folder.upload(self.output_dir / name, name)


@contextlib.contextmanager
def open_places(
    dataset_dir: str,
    output_dir: str | None,
    metadata: Sequence[str] = (),
    split_dir: str | None = None,
) -> Iterator[Places]:
    """Opens what a command's flags name.

    Args:
        dataset_dir: Folder or address.
        output_dir: Folder or address; None where there is none.
        metadata: Patterns of the dataset's metadata, see `base.Dataset`.
        split_dir: Folder or address of split files, or None.

    Yields:
        Places; stand-ins last as long.

    Raises:
        DatasetError: If the dataset's folder does not exist, or an address is of no
            known file system.
        OSError: If an address cannot be read, or this machine's disk is full.
        UserError: Of the block, too, whose messages then name addresses, no stand-ins.
    """
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(dataset_dir)
        output = pathlib.Path(output_dir or ".")
        urls: list[str | None] = [None, None]
        unreadable: dict[str, str] = {}
        if any(map(addresses.is_address, (dataset_dir, output_dir or ""))):
            context = tempfile.TemporaryDirectory(prefix=addresses.SCRATCH_PREFIX)
            scratch = pathlib.Path(stack.enter_context(context)).resolve()
        if output_dir is not None and addresses.is_address(output_dir):
            urls[1] = addresses.open_folder(output_dir).url
            output = scratch / "output"
            output.mkdir()
        if addresses.is_address(dataset_dir):
            data = addresses.open_folder(dataset_dir)
            urls[0] = data.url
            folder = inputs.make_stand_in(data, metadata, scratch / "data", unreadable)
            if split_dir and addresses.is_address(split_dir):
                lists = addresses.open_folder(split_dir)
                inputs.make_stand_in(lists, metadata, scratch / "data")
        elif not folder.is_dir():
            raise DatasetError(f"--dataset_dir={dataset_dir} is not a folder")
        found = Places(folder, output, urls[0], urls[1], unreadable)
        found.refresh()
        try:
            yield found
        except UserError as error:
            error.args = (found.shown(str(error)),)
            raise
        except OSError as error:
            raise FileError(found.shown(str(error))) from error


def upload_shard(url: str, folder: pathlib.Path, names: Sequence[str]) -> None:
    """Uploads a shard; it counts as finished once its last file is there.

    Args:
        url: The output's address.
        folder: Where the files lie on this machine.
        names: Shard, index and sidecar, in this order.

    Raises:
        RemoteError: If it cannot be written.
    """
    target = addresses.open_folder(url)
    # An older sidecar must not vouch for what is about to be replaced.
    target.delete(names[-1])
    for name in names:
        target.upload(folder / name, name)


def relative(path: str, root: str) -> str:
    """A path as seen from a folder; each may be an address.

    Args:
        path: Folder or address.
        root: Folder or address.

    Returns:
        A relative path; an absolute one for a folder seen from an address.

    Raises:
        UsageError: For an address seen from a folder or another file system.
    """
    if addresses.is_address(root):
        if addresses.is_address(path):
            return addresses.open_folder(root).relative(addresses.open_folder(path))
        return os.path.realpath(path)
    if addresses.is_address(path):
        raise UsageError(
            f"{hide_logins(str(path))} is an address, but {root} is a folder: copy it "
            "to a local disk"
        )
    # Of real paths: beyond a symbolic link, `..` is not where its name suggests.
    return os.path.relpath(os.path.realpath(path), os.path.realpath(root))
