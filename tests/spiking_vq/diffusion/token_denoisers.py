"""Denoisers that are known in closed form, and token grids small enough to enumerate."""

import math
from itertools import product

import torch

from spiking_vq.diffusion.absorbing_sampler import AbsorbingSampler, AbsorbingSamplerOptions

K, N = 3, 2  # the enumerable case
MASK = K
GRIDS = [(1, 1, N), (N, 1, 1)]
"""Grids [G, h, w] of two tokens: two positions, or two codes of one position."""

IMAGES = list(product(range(K), repeat=N))
TABLE = 2 * torch.randn(N, K + 1, K + 1, N, K, generator=torch.Generator().manual_seed(0))  # [t - 1, x_0, x_1, i, k]


def table_denoiser(tokens, t):
    first, second = tokens.flatten(1).unbind(1)
    return TABLE[t - 1, first, second].movedim(-1, 1).view(len(tokens), K, *tokens.shape[1:])


def table_prob(state, t, i, k):
    return TABLE[t - 1, state[0], state[1], i].softmax(-1)[k].item()


def subsets(positions):
    return [
        [i for i, keep in zip(positions, kept, strict=True) if keep] for kept in product((0, 1), repeat=len(positions))
    ]


def exact_model(times, chance):
    """P(image) of the chain over `times` that unmasks each masked position with probability chance(t)."""
    states = {(MASK,) * N: 1.0}
    for t in times:
        after = {}
        for state, p in states.items():
            masked = [i for i in range(N) if state[i] == MASK]
            for chosen in subsets(masked):
                p_chosen = chance(t) ** len(chosen) * (1 - chance(t)) ** (len(masked) - len(chosen))
                for codes in product(range(K), repeat=len(chosen)):
                    new, p_new = list(state), p * p_chosen
                    for i, k in zip(chosen, codes, strict=True):
                        new[i], p_new = k, p_new * table_prob(state, t, i, k)
                    after[tuple(new)] = after.get(tuple(new), 0) + p_new
        states = after
    return torch.tensor([states[image] for image in IMAGES])


def exact_bound_bits(image):
    total = 0.0
    for t in range(1, N + 1):
        for masked in subsets(range(N)):
            p_mask = (t / N) ** len(masked) * (1 - t / N) ** (N - len(masked))
            state = [MASK if i in masked else image[i] for i in range(N)]
            total += p_mask / t * sum(-math.log2(table_prob(state, t, i, image[i])) for i in masked)
    return total


PAPER_MODEL = exact_model(times=(2, 1), chance=lambda t: 1 / t)


def chi_square(samples, probabilities):
    """Pearson's statistic of sampled tokens, two an image; 8 degrees of freedom: above 26.1 once in a thousand."""
    first, second = samples.flatten(1).unbind(1)
    counts = (first * K + second).bincount(minlength=K * K)
    expected = probabilities * len(samples)
    return ((counts - expected) ** 2 / expected).sum().item()


def all_images(repeats, grid):
    return torch.tensor(IMAGES).view(-1, *grid).repeat(repeats, 1, 1, 1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Recorder:
    """Wraps a denoiser and keeps what it was asked."""

    def __init__(self, denoiser):
        self.denoiser, self.calls = denoiser, []

    def __call__(self, tokens, t):
        self.calls.append((tokens.clone(), t.clone()))
        return self.denoiser(tokens, t)

    def num_masked(self, mask_id):
        return [(tokens == mask_id).sum((1, 2, 3)).tolist() for tokens, _ in self.calls]


def oracle(images, codebook_size):
    logits = torch.nn.functional.one_hot(images, codebook_size).movedim(-1, 1).float().log()  # 0 and -inf
    return lambda tokens, t: logits


def mixing_denoiser(tokens, t):
    """Logits [B, 5, G, h, w] that depend on token, t and the whole image, not on the batch; exact in integers."""
    position = torch.arange(tokens[0].numel()).view(tokens.shape[1:])
    state = (tokens * (position + 1)).sum((1, 2, 3)).view(-1, 1, 1, 1, 1) + t.view(-1, 1, 1, 1, 1)
    return (state + 3 * position + 7 * torch.arange(5).view(-1, 1, 1, 1)) % 11 / 4


def sample(diffusion, denoiser, seeds, known=None, labels=None, batch_size=None, **options):
    """Tokens of the sampler with these options."""
    sampler = AbsorbingSampler(diffusion, AbsorbingSamplerOptions(**options))
    return sampler.sample(denoiser, seeds, labels=labels, known=known, batch_size=batch_size)
