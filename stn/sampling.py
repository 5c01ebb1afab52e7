"""Which images an epoch shows: each one once, or equally many of each class."""

import torch
from torch import Tensor

from stn.seeds import derive_seed

SAMPLERS = ("uniform", "balanced")


def sample_images(sampler: str, labels: Tensor, seed: int, epoch: int) -> Tensor:
    """Choose the N images of an epoch from N images; returns their indices (N,) on the CPU, not shuffled.

    - ``uniform``: each image once.
    - ``balanced``: as many images of each class. A class is a deck of cards that is shuffled anew whenever it is empty,
      also across epochs. After any number of epochs, two images of a class have been chosen equally often, up to one
      time, and so have two classes. Independent random draws would leave out a third of the images of a rare class by
      chance and show others several times as often.

    The choice depends on (seed, epoch) alone, so that a training can be resumed at any epoch.

    Args:
        sampler: one of :data:`SAMPLERS`.
        labels: int64 (N,), on the CPU. Classes without images are not chosen.

    Raises:
        ValueError: ``sampler`` is unknown.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler: {sampler!r} is not one of {', '.join(SAMPLERS)}")
    if sampler == "uniform":
        return torch.arange(len(labels))
    count, by_class = len(labels), labels.argsort(stable=True)
    sizes = labels.bincount()
    sizes = sizes[sizes > 0]
    chosen = []
    for position, deck in enumerate(by_class.split(sizes.tolist())):
        # The total of all classes is exactly N in each epoch: the sum of floor((x + i) / K) over i < K is x.
        first, end = ((number * count + position) // len(sizes) for number in (epoch, epoch + 1))
        chosen.append(deal(deck, first, end, derive_seed(seed, position)))
    return torch.cat(chosen)


def deal(deck: Tensor, first: int, end: int, seed: int) -> Tensor:
    """Deal the cards ``first`` to ``end - 1`` of an endless sequence of shuffled decks.

    Args:
        deck: the cards (n,).
        seed: of the sequence. It alone determines the sequence.

    Returns:
        The cards (end - first,). Cards of a deck that is dealt as a whole are not shuffled.
    """
    (first_deck, begin), (last_deck, rest) = divmod(first, len(deck)), divmod(end, len(deck))

    def shuffled(number: int) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed(seed, number))
        return deck[torch.randperm(len(deck), generator=generator)]

    if first_deck == last_deck:
        return shuffled(first_deck)[begin:rest]
    head = shuffled(first_deck)[begin:] if begin else deck
    tail = shuffled(last_deck)[:rest] if rest else deck[:0]
    return torch.cat((head, deck.repeat(last_deck - first_deck - 1), tail))
