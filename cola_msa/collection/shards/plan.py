"""Which files go into which shard, also where some shards are there already.

A plan is a list of files cut into parts of equal size. It is kept nowhere: each shard
holds a hash of its files' names, and the number at which the plan that made it began.
So a killed run goes on with the same list, and a list that has grown adds shards behind
those that are there.
"""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from cola_msa.collection.table.write import OutputError

# Of a plan without a size of its own: a shard is a few minutes' work on one core.
_MIN_FILES, _SHARDS = 8, 8
MAX_FILES = {"clip": 1000, "window": 100}
_NAME = re.compile(r"part-(\d{5,})-of-(\d{5,})\.parquet")


@dataclasses.dataclass(frozen=True)
class Shard:
    """One unit of work.

    Attributes:
        number: From 0.
        total: Shards of the whole dataset.
        paths: Its files, in order.
        digest: Hash of their names.
        begin: Number of the first shard of the plan that made it.
    """

    number: int
    total: int
    paths: tuple[str, ...]
    digest: str
    begin: int

    @property
    def name(self) -> str:
        """`part-00003-of-00012.parquet`."""
        return shard_name(self.number, self.total)

    @property
    def mark(self) -> dict[str, Any]:
        """What the shard's metadata say of it."""
        return {
            "sha256": self.digest,
            "num_files": len(self.paths),
            "begin": self.begin,
        }


@dataclasses.dataclass(frozen=True)
class Found:
    """A shard that is there.

    Attributes:
        name: Its name.
        digest: Hash of its files' names.
        num_files: How many they are.
        begin: Number of the first shard of the plan that made it.
        num_rows: Its rows.
    """

    name: str
    digest: str
    num_files: int
    begin: int
    num_rows: int

    @property
    def number(self) -> int:
        """Its number, from its name."""
        numbers = parse_name(self.name)
        assert numbers is not None
        return numbers[0]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A dataset that is to be.

    Attributes:
        shards: What is to be made.
        renamed: Names that shards shall have, by those that they have now.
        kept: Shards that are there, by the names that they shall have.
        total: Shards in all.
        gone: Files of shards that are there which the list lacks, as tables hold them.
        doubles: Names of shards that are there under another name, too: at an address
            a renaming that was killed leaves both.
    """

    shards: tuple[Shard, ...]
    renamed: dict[str, str]
    kept: dict[str, Found]
    total: int
    gone: frozenset[str] = frozenset()
    doubles: tuple[str, ...] = ()


def shard_name(number: int, total: int) -> str:
    """`part-00003-of-00012.parquet`."""
    return f"part-{number:05d}-of-{total:05d}.parquet"


def parse_name(name: str) -> tuple[int, int] | None:
    """Number and total of a shard's name; None where it is another's."""
    found = _NAME.fullmatch(name)
    if found is None or int(found[1]) >= int(found[2]):
        return None
    return int(found[1]), int(found[2])


def default_size(num_files: int, per: str) -> int:
    """Files of a shard: about eight shards, of 8 files to MAX_FILES."""
    size = -(-num_files // _SHARDS)
    return min(max(size, _MIN_FILES), MAX_FILES[per])


def names_digest(names: Iterable[str]) -> str:
    """Hash of names in order; none holds a zero byte."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode() + b"\0")
    return digest.hexdigest()


def make_plan(
    paths: Sequence[str],
    text: Callable[[str], str],
    size: int,
    found: Sequence[Found],
    files_of: Callable[[Found], Iterable[str]],
    output: str,
) -> Plan:
    """Cuts a list of files into shards, around those that are there.

    Args:
        paths: The files.
        text: A path as tables hold it.
        size: Files of a shard.
        found: Shards that are there.
        files_of: The files of one of them, as tables hold them; asked for only where
            the list is another than that which they were made of.
        output: The dataset, for messages.

    Returns:
        Plan.

    Raises:
        OutputError: If shards have one number, or hold nothing that the list names.
    """
    by_number: dict[int, Found] = {}
    doubles = []
    for shard in sorted(found, key=lambda shard: (shard.number, shard.name)):
        other = by_number.setdefault(shard.number, shard)
        if other.digest != shard.digest:
            raise OutputError(
                f"{output} holds {other.name} and {shard.name}, of different runs: "
                "move one run's shards away"
            )
        doubles += [shard.name] if other is not shard else []
    found = list(by_number.values())
    # The newest plan's first shard; 0 of one that was made at once.
    begin = max((shard.begin for shard in found), default=0)
    for first in dict.fromkeys([begin, len(found)]):
        plan = _plan_behind(first, paths, text, size, found, files_of, output)
        if plan is not None:
            return dataclasses.replace(plan, doubles=tuple(doubles))
    raise AssertionError("what is there can always be kept")


def _plan_behind(
    first: int,
    paths: Sequence[str],
    text: Callable[[str], str],
    size: int,
    found: Sequence[Found],
    files_of: Callable[[Found], Iterable[str]],
    output: str,
) -> Plan | None:
    """A plan that keeps the first shards; None where the others do not fit it."""
    kept, later = found[:first], found[first:]
    if first == len(found):
        kept = [*found]
    elif [shard.number for shard in kept] != list(range(first)):
        return None
    rest: Sequence[str] = paths
    gone: frozenset[str] = frozenset()
    if kept:
        known = {name for shard in kept for name in files_of(shard)}
        rest = [path for path in paths if text(path) not in known]
        gone = frozenset(known.difference(map(text, paths)))
        if known and len(gone) == len(known):
            example = min(known)
            raise OutputError(
                f"{output} holds {len(known):,} files ({example}, ...), of which "
                "--input names none: it is another collection, or the same under other "
                "paths; name another --output"
            )
    total = first + -(-len(rest) // size)
    cut = []
    for number in range(first, total):
        part = tuple(rest[(number - first) * size : (number - first + 1) * size])
        digest = names_digest(map(text, part))
        cut.append(Shard(number, total, part, digest, first))
    for shard in later:
        if shard.number >= total or shard.digest != cut[shard.number - first].digest:
            return None
    names = [shard_name(number, total) for number in range(first)]
    names += [shard_name(shard.number, total) for shard in later]
    there = dict(zip(names, [*kept, *later], strict=True))
    return Plan(
        shards=tuple(shard for shard in cut if shard.name not in there),
        renamed={s.name: n for n, s in there.items() if s.name != n},
        kept=there,
        total=total,
        gone=gone,
    )
