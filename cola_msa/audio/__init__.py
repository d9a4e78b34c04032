"""A file or its samples to mono to windows, of log-mels or of the waveform.

Imports `system` and `config`.
"""
