"""CLMR: waveforms of two crops of a clip, augmented, found again among a batch's crops.

`framework` is the object behind the interface; `network`, `loss` and `model` are what
it builds, `augment` its chain.

Source: Spijkervet and Burgoyne 2021, "Contrastive Learning of Musical Representations"
(ISMIR), and their published code, whose numbers are given where the two differ.
"""
