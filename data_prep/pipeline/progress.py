"""The progress bar of long preparations: clips, hours of audio, speed, failures."""

import time

from cola_msa.system.console import ProgressBar


class Progress:
    """with Progress(1000, 3) as progress: progress.advance(10, 1, 290.0)."""

    def __init__(self, num_clips: int, num_failed: int = 0, is_shown: bool = True):
        """Draws an empty bar.

        Args:
            num_clips: Clips to come.
            num_failed: Clips that have failed before.
            is_shown: Whether to draw at all.
        """
        self._num_failed = num_failed
        self._start = time.monotonic()
        self._shown = (0, 0.0)
        self._bar = ProgressBar(
            total=num_clips, unit="clip", disable=not is_shown, smoothing=0.05
        )

    def __enter__(self) -> "Progress":
        """The progress itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the line."""
        self._bar.close()

    def advance(self, num_done: int, num_failures: int, seconds: float) -> None:
        """Shows totals since the start: clips, failures among them, audio's seconds.

        Seconds may run ahead of the clips: a long clip counts as far as it is done.
        """
        if (num_done, seconds) == self._shown:
            return
        is_same_clip = num_done == self._shown[0]
        self._shown = (num_done, seconds)
        elapsed = max(time.monotonic() - self._start, 1e-3)
        text = (
            f"{seconds / 3600:.2f} h of audio, {seconds / elapsed:.0f}x real time, "
            f"failed={self._num_failed + num_failures}"
        )
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(num_done - self._bar.n)
        if is_same_clip:
            self._bar.refresh()
