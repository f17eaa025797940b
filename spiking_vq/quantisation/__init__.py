"""Quantisation: networks whose weights are integers of few bits times a power of two, as neuromorphic chips hold them.

A weight is `k 2^-e`: k an integer of 8 bits or fewer, e the exponent of its output channel. Then a threshold of 1 is
the integer `2^e`, biases are multiples of `2^-e`, and currents of different exponents are added after a shift. Sums of
such numbers below `2^24` are exact in float32, so the package's own networks, with their parameters rounded so, compute
the integer arithmetic of a chip bit by bit, on a CPU in fp32.

Exact are the spikes of denoiser and decoder, and the denoiser's logits where T is a power of two. Not exact are the
encoder, whose stem reads real pixels (`k / 255 - 0.5`), its vectors, and the decoder's last potential, which decays by
0.8 a step.
"""
