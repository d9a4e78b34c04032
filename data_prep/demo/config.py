"""What the built-in music consists of."""

from __future__ import annotations

import dataclasses

from cola_msa.config.schema import Checked, ConfigError
from cola_msa.values.fields import MAX_SEED, within

# Raised whenever the same options give other audio or other files.
FORMAT_VERSION = 1
SAMPLE_RATE_HZ = 16000
TRACK_SAMPLE_RATE_HZ = 22050
NOTE_SECONDS = 4.0
_MAX_COUNT = 1_000_000
SPLITS = ("train", "valid", "test")
TREES = ("mtat", "nsynth", "fma")
# MagnaTagATune's split by folder.
SPLIT_FOLDERS = {"train": "0123456789ab", "valid": "c", "test": "def"}


@dataclasses.dataclass(frozen=True)
class DemoConfig(Checked):
    """Options of the built-in music; counts are (train, valid, test).

    Attributes:
        seed: everything follows from it.
        num_songs: songs of the MagnaTagATune tree.
        clips_per_song: clips cut from each of them.
        clip_seconds: length of a clip.
        num_tracks_per_genre: songs a genre of the FMA tree.
        track_seconds: length of a track.
        num_notes_per_family: notes a family of the NSynth tree.
        untagged_share: share of clips that nobody annotated.
        trees: which are written.
        soundfont: SHA-256 of the sound font that plays the songs and notes; empty
            where they are synthesised.
        sampled_share: share of parts that it plays; the others are synthesised.
    """

    seed: int = within(0, 0, MAX_SEED)
    num_songs: tuple[int, int, int] = within((160, 28, 42), 0, _MAX_COUNT)
    clips_per_song: int = within(1, 1, _MAX_COUNT)
    clip_seconds: float = within(29.0, 0.01, 86400.0)
    num_tracks_per_genre: tuple[int, int, int] = within((20, 4, 6), 0, _MAX_COUNT)
    track_seconds: float = within(30.0, 0.01, 86400.0)
    num_notes_per_family: tuple[int, int, int] = within((40, 10, 10), 0, _MAX_COUNT)
    untagged_share: float = within(0.04, 0.0, 1.0)
    trees: tuple[str, ...] = TREES
    soundfont: str = ""
    sampled_share: float = within(1.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        """Refuses what cannot be meant, by ConfigError."""
        super().__post_init__()
        unknown = sorted(set(self.trees) - set(TREES))
        if unknown or not self.trees:
            raise ConfigError(
                f"trees are some of {', '.join(TREES)}, not {', '.join(unknown)}"
                if unknown
                else f"no tree is named; there are {', '.join(TREES)}"
            )

    def scaled(self, scale: float) -> DemoConfig:
        """Multiplies all counts.

        Args:
            scale: factor; counts are rounded and stay large enough for a song in
                every folder and one in every split of a genre or family.

        Returns:
            The scaled configuration.

        Raises:
            ConfigError: If scale is not positive, or makes more than can be made.
        """
        if not 0 < scale <= _MAX_COUNT:
            raise ConfigError(f"scale must be positive and finite, not {scale}")

        def multiply(
            counts: tuple[int, int, int], fewest: tuple[int, int, int]
        ) -> tuple[int, int, int]:
            train, valid, test = (
                max(round(count * scale), least)
                for count, least in zip(counts, fewest, strict=True)
            )
            return train, valid, test

        num_folders = [len(SPLIT_FOLDERS[split]) for split in SPLITS]
        return dataclasses.replace(
            self,
            num_songs=multiply(
                self.num_songs, (num_folders[0], num_folders[1], num_folders[2])
            ),
            num_tracks_per_genre=multiply(self.num_tracks_per_genre, (1, 1, 1)),
            num_notes_per_family=multiply(self.num_notes_per_family, (1, 1, 1)),
        )
