"""Spiking neurons: dynamics, surrogate gradients, fused layers, read-outs, twins, exchange with snnTorch."""
