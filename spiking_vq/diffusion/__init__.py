"""Diffusion processes: schedules, forward process, losses and samplers. Tensors in, tensors out; no network inside."""
