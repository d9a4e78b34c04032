"""What a method of learning from pairs is: input, network, loss and augmentation.

`base.Framework` is the one interface, and `choose` the only place that knows all of
them. Sampler, loop, devices, statistics, probes, embedder and exports ask the object
that it gives, and never which one it is.

Imports `config`, `pairs` and `model`.
"""
