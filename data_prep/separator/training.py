"""Trains Open-Unmix's network for one source, as Open-Unmix's own script does.

torch and openunmix are an extra: they are imported inside functions.
"""

import dataclasses
import math
import pathlib
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cola_msa.system.console import ProgressBar, tell
from cola_msa.system.files import write_json, written_path
from data_prep.separator import network as network_lib
from data_prep.separator.chunks import NUM_CHANNELS, StemReader, batches, draw_epoch
from data_prep.separator.network import TrainingError
from data_prep.separator.tracks import SeparatorConfig, Track
from data_prep.stems import weights

_COOLDOWN_EPOCHS = 10


@dataclasses.dataclass(frozen=True)
class Run:
    """How and where a training runs; nothing here decides what is learned.

    Attributes:
        output_dir: Where weights and checkpoints go.
        epochs: Epochs after which training ends; a later run may raise them.
        device: torch's name of the device.
        show_progress: Whether to draw a progress bar.
        log: Takes one line.
    """

    output_dir: pathlib.Path
    epochs: int
    device: str = "cpu"
    show_progress: bool = True
    log: Callable[[str], None] = tell


@dataclasses.dataclass
class History:
    """What has happened to one target so far, epoch by epoch."""

    train_loss: list[float] = dataclasses.field(default_factory=list)
    valid_loss: list[float] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    best_epoch: int = 0
    has_stopped: bool = False

    @property
    def epochs(self) -> int:
        """Epochs trained."""
        return len(self.train_loss)


class TargetTrainer:
    """One target's network, optimizer and history; goes on from its checkpoint."""

    def __init__(
        self,
        target: str,
        tracks: Sequence[Track],
        reader: StemReader,
        config: SeparatorConfig,
        run: Run,
        statistics: Callable[[], tuple[np.ndarray, np.ndarray]],
    ):
        """Builds the network, or reads what an earlier run left.

        Args:
            target: The source to be separated.
            tracks: Training and validation tracks.
            reader: StemReader.
            config: SeparatorConfig.
            run: Run.
            statistics: Called if there is no checkpoint; see `input_statistics`.

        Raises:
            TrainingError: If there is a checkpoint that cannot be read.
        """
        openunmix = weights.import_openunmix()
        import torch

        self._target, self._config = target, config
        self._run, self._reader = run, reader
        self._source = config.options.sources.index(target)
        self._train = [track for track in tracks if track.split == "train"]
        self._valid = [track for track in tracks if track.split == "validation"]
        self._device = torch.device(run.device)
        encoder = network_lib.magnitude_encoder(config)
        self._encoder = encoder.to(self._device)
        self.history = History()
        checkpoint = self._read_checkpoint()
        # Dropout and initial weights are the only users of torch's generator.
        torch.manual_seed(zlib.crc32(f"{config.options.seed} {target}".encode()))
        mean, scale = (None, None) if checkpoint else statistics()
        network = network_lib.make_network(mean, scale, config)
        self._network = network.to(self._device)
        self._optimizer = torch.optim.Adam(
            self._network.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )
        self._scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self._optimizer,
            factor=config.lr_decay_gamma,
            patience=config.lr_decay_patience,
            cooldown=_COOLDOWN_EPOCHS,
        )
        self._stopping = openunmix.utils.EarlyStopping(patience=config.patience)
        if checkpoint:
            self._restore(checkpoint)

    def _path(self, suffix: str) -> pathlib.Path:
        return self._run.output_dir / f"{self._target}.{suffix}"

    def _read_checkpoint(self) -> dict[str, Any] | None:
        import torch

        path = self._path("chkpnt")
        if not path.exists():
            return None
        advice = f"delete it to train {self._target} from the start"
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            # torch.load raises pickle, zip, key and runtime errors alike.
            raise TrainingError(
                f"{path} cannot be read ({type(error).__name__}); {advice}"
            ) from error
        if not self._path("pth").exists():
            raise TrainingError(
                f"{self._path('pth')} is missing beside {path}; {advice}"
            )
        return content

    def _restore(self, checkpoint: dict[str, Any]) -> None:
        import torch

        try:
            self._network.load_state_dict(checkpoint["state_dict"])
            self._optimizer.load_state_dict(checkpoint["optimizer"])
            self._scheduler.load_state_dict(checkpoint["scheduler"])
            self.history = History(**checkpoint["history"])
            self._stopping.best = checkpoint["best_loss"]
            self._stopping.num_bad_epochs = checkpoint["num_bad_epochs"]
            torch.set_rng_state(checkpoint["rng"])
            if self._device.type == "cuda" and checkpoint["cuda_rng"] is not None:
                torch.cuda.set_rng_state(checkpoint["cuda_rng"], self._device)
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise TrainingError(
                f"{self._path('chkpnt')} does not fit this training "
                f"({str(error).splitlines()[0]}); delete it to train "
                f"{self._target} from the start"
            ) from error

    def run(self) -> History:
        """Trains until the last epoch, or until the validation loss stays.

        Returns:
            The history; weights and checkpoint are on the disk.

        Raises:
            TrainingError: If a loss is not finite.
            AudioError: If a file cannot be read.
        """
        history, run = self.history, self._run
        while history.epochs < run.epochs and not history.has_stopped:
            epoch = history.epochs + 1
            began = time.monotonic()
            train_loss = self._train_epoch(epoch)
            valid_loss = self.validate()
            for loss in (train_loss, valid_loss):
                if not math.isfinite(loss):
                    raise TrainingError(
                        f"{self._target}: the loss of epoch {epoch} is {loss}; lower "
                        "--learning_rate, or look for damaged stems"
                    )
            self._scheduler.step(valid_loss)
            history.has_stopped = bool(self._stopping.step(valid_loss))
            is_best = self._stopping.num_bad_epochs == 0
            if is_best:
                history.best_epoch = epoch
            history.train_loss.append(train_loss)
            history.valid_loss.append(valid_loss)
            history.seconds.append(round(time.monotonic() - began, 3))
            self._save(is_best)
            run.log(
                f"{self._target} epoch {epoch}/{run.epochs}: training loss "
                f"{train_loss:.4f}, validation loss {valid_loss:.4f}"
                f"{' (best)' if is_best else ''}, {history.seconds[-1]:.1f} s"
            )
        return history

    def _train_epoch(self, epoch: int) -> float:
        """Mean loss over the epoch's examples."""
        import torch

        config = self._config
        # A function of seed, target and epoch alone, so that a resumed run draws on.
        seed = (config.options.seed, zlib.crc32(self._target.encode()), epoch)
        draws = draw_epoch([track.seconds for track in self._train], config, seed)
        self._network.train()
        total, count = 0.0, 0
        with ProgressBar(
            total=-(-len(draws.track) // config.batch_size),
            desc=f"{self._target} epoch {epoch}/{self._run.epochs}",
            unit="batch",
            disable=not self._run.show_progress,
            leave=False,
        ) as bar:
            for mixture, stem in batches(
                self._reader, self._train, draws, self._source, config
            ):
                self._optimizer.zero_grad()
                loss = self._loss(torch.from_numpy(mixture), torch.from_numpy(stem))
                loss.backward()
                self._optimizer.step()
                total += loss.item() * len(mixture)
                count += len(mixture)
                bar.set_postfix(loss=f"{total / count:.4f}", refresh=False)
                bar.update()
        return total / count

    def _loss(self, mixture: Any, stem: Any) -> Any:
        """Mean squared error of magnitudes; waveforms [batch, 2, n] -> scalar."""
        import torch

        estimate = self._network(self._encoder(mixture.to(self._device)))
        magnitude = self._encoder(stem.to(self._device))
        return torch.nn.functional.mse_loss(estimate, magnitude)

    def validate(self) -> float:
        """Mean of the validation tracks' losses, each of the whole track."""
        import torch

        self._network.eval()
        losses = []
        with torch.inference_mode():
            for track in self._valid:
                mixture, [stem] = self._reader.whole(track, [self._source])
                mixture, stem = torch.from_numpy(mixture), torch.from_numpy(stem)
                losses.append(self._loss(mixture[None], stem[None]).item())
        return math.fsum(losses) / len(losses)

    def _save(self, is_best: bool) -> None:
        """Weights, then description, then the checkpoint, which makes them count."""
        import torch

        state = self._network.state_dict()
        if is_best:
            with written_path(self._path("pth")) as path:
                torch.save(state, path)
        write_json(self._path("json"), self._describe())
        cuda_rng = None
        if self._device.type == "cuda":
            cuda_rng = torch.cuda.get_rng_state(self._device)
        with written_path(self._path("chkpnt")) as path:
            torch.save(
                {
                    "epoch": self.history.epochs + 1,
                    "state_dict": state,
                    "optimizer": self._optimizer.state_dict(),
                    "scheduler": self._scheduler.state_dict(),
                    "best_loss": self._stopping.best,
                    "num_bad_epochs": self._stopping.num_bad_epochs,
                    "history": dataclasses.asdict(self.history),
                    "rng": torch.get_rng_state(),
                    "cuda_rng": cuda_rng,
                },
                path,
            )

    def _describe(self) -> dict[str, Any]:
        """Open-Unmix's `<target>.json`, in its own names."""
        config, history = self._config, self.history
        arguments = {
            "target": self._target,
            "nfft": config.fft_size,
            "nhop": config.hop_samples,
            "nb_channels": NUM_CHANNELS,
            "hidden_size": config.hidden_size,
            "bandwidth": config.bandwidth_hz,
            "unidirectional": False,
            "seq_dur": config.seq_seconds,
            "samples_per_track": config.samples_per_track,
            "source_augmentations": list(config.source_augmentations),
            "random_track_mix": config.random_track_mix,
            "epochs": self._run.epochs,
            "batch_size": config.batch_size,
            "lr": config.learning_rate,
            "weight_decay": config.weight_decay,
            "patience": config.patience,
            "lr_decay_patience": config.lr_decay_patience,
            "lr_decay_gamma": config.lr_decay_gamma,
            "seed": config.options.seed,
        }
        return {
            "args": arguments,
            "epochs_trained": history.epochs,
            "best_epoch": history.best_epoch,
            "best_loss": self._stopping.best,
            "num_bad_epochs": self._stopping.num_bad_epochs,
            "stopped_early": history.has_stopped,
            "train_loss_history": history.train_loss,
            "valid_loss_history": history.valid_loss,
            "train_time_history": history.seconds,
        }
