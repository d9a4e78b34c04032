"""Data preparation: audio files to sharded records.

Of `cola_msa` it imports `config`, `frontend` and `records` alone: preparation runs
without the model, training without torch.
"""
