"""XLA and mixed precision: off where they lose or were never measured."""

import contextlib
import dataclasses
from collections.abc import Iterator

import keras
import tensorflow as tf

from cola_msa.config.schema import TrainConfig
from cola_msa.system.errors import UserError


class AccelerationError(UserError):
    """Flags that do not go together."""


@dataclasses.dataclass(frozen=True)
class Acceleration:
    """What a run uses.

    Attributes:
        jit_compile: Whether XLA compiles what a replica computes of its own.
        precision: What the encoder computes in: `none` (float32), `bfloat16` or
            `float16`. Weights, head and loss stay float32.
        reason: For people.
    """

    jit_compile: bool
    precision: str
    reason: str

    @property
    def policy(self) -> str:
        """The encoder's Keras policy."""
        return "float32" if self.precision == "none" else f"mixed_{self.precision}"

    def __str__(self) -> str:
        """One line for the start of a run."""
        precision = "float32" if self.precision == "none" else self.policy
        return f"XLA {'on' if self.jit_compile else 'off'}, {precision}{self.reason}"


def choose_acceleration(
    train: TrainConfig, is_synchronized: bool, has_gpu: bool | None = None
) -> Acceleration:
    """Settles `auto`, and refuses what cannot be compiled.

    Args:
        train: jit_compile, mixed_precision, global_negatives and micro_batch are used.
        is_synchronized: Whether batch normalization is synchronised.
        has_gpu: Whether a GPU trains; default: whether TensorFlow sees one.

    Raises:
        AccelerationError: If XLA would have to compile what replicas exchange.
    """
    if has_gpu is None:
        has_gpu = bool(tf.config.list_logical_devices("GPU"))
    exchanges = {
        "--global_negatives": train.global_negatives,
        "--sync_batch_norm": is_synchronized,
        "--micro_batch": bool(train.micro_batch),
    }
    names = [name for name, is_given in exchanges.items() if is_given]
    if train.jit_compile == "on" and names:
        raise AccelerationError(
            f"--jit_compile=on does not go with {', '.join(names)}: XLA compiles what "
            "one replica computes of its own, and in one piece"
        )
    reason = ""
    if "auto" in (train.jit_compile, train.mixed_precision):
        reason = (
            " (auto: on a GPU neither XLA nor mixed precision was measured yet)"
            if has_gpu
            else " (auto: XLA and mixed precision lose on a CPU)"
        )
    precision = train.mixed_precision
    return Acceleration(
        jit_compile=train.jit_compile == "on",
        precision="none" if precision == "auto" else precision,
        reason=reason,
    )


@contextlib.contextmanager
def dtype_policy(name: str | None) -> Iterator[None]:
    """Layers that are made inside compute by this Keras policy; None changes none."""
    if name is None:
        yield
        return
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(previous)
