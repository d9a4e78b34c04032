"""Data preparation: audio files to sharded records.

Of `cola_msa` it imports `audio`, `config`, `records`, `system` and `values` alone:
preparation runs without the model, training without torch.
"""
