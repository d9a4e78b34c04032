"""Waveforms that the tests of effects listen to."""

import numpy as np

RATE = 22050
SAMPLES = 59049


def tone(frequency_hz, samples=SAMPLES, amplitude=0.5):
    """A sinusoid, float32 [samples]."""
    time = np.arange(samples) / RATE
    return (amplitude * np.sin(2 * np.pi * frequency_hz * time)).astype(np.float32)


def noise(seed=0, samples=SAMPLES, deviation=0.1):
    """White Gaussian noise, float32 [samples]."""
    random = np.random.default_rng(seed)
    return random.normal(0.0, deviation, samples).astype(np.float32)


def impulse(at=0, samples=SAMPLES):
    """One sample of 1 among zeros, float32 [samples]."""
    waveform = np.zeros(samples, np.float32)
    waveform[at] = 1.0
    return waveform


def spectrum(waveform):
    """Frequencies in hertz, to 0.05 Hz, and magnitudes under a Hann window."""
    length = 8 * len(waveform)
    magnitude = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)), length))
    return np.fft.rfftfreq(length, 1 / RATE), magnitude


def decibels(ratio):
    """A ratio of amplitudes in decibels."""
    return 20 * np.log10(ratio)
