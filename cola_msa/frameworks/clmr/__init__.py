"""CLMR: windows of raw samples, augmented in the waveform domain.

Imports what `frameworks` may.
"""
