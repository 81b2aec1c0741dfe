"""A user's DataLoader made again: in the order of its dataset, or in batches that are known beforehand."""

from __future__ import annotations

import itertools
from typing import Any

from byheart.network.columns import collate_rows
from byheart.network.layers import left_as_found


def prepared(loader: Any) -> Any:
    """The user's loader inside one that accelerate has prepared, which may give each process a part of the data."""
    from torch.utils.data import BatchSampler

    if not hasattr(loader, "base_dataloader"):
        return loader
    inner, batches = loader.base_dataloader, loader.base_dataloader.batch_sampler
    while hasattr(batches, "batch_sampler"):
        batches = batches.batch_sampler
    if type(batches) is not BatchSampler:
        return rebuilt(inner, batch_sampler=batches)
    drawn = {"sampler": batches.sampler, "batch_size": batches.batch_size, "drop_last": batches.drop_last}
    return rebuilt(inner, **drawn)


def draws(sampler: Any, dataset: Any, what: str) -> list[Any]:
    """What a sampler draws, which must be each example once; random states are left as found."""
    import torch

    generator = getattr(sampler, "generator", None)
    own = generator if isinstance(generator, torch.Generator) else torch.default_generator
    state = own.get_state()
    with left_as_found(torch.nn.Identity()):
        draws = list(itertools.islice(sampler, len(dataset) + 1))
    own.set_state(state)
    flat = [int(index) for batch in draws for index in batch] if what == "batch_sampler" else [int(i) for i in draws]
    if sorted(flat) != list(range(len(dataset))):
        with_what = f"a {type(sampler).__name__}" if what == "sampler" else "a batch_sampler"
        raise ValueError(
            f"dataset: received a DataLoader with {with_what}, accepted: one that draws each example once, in any"
            " order; for a part of the data a torch.utils.data.Subset"
        )
    return [[int(index) for index in batch] for batch in draws] if what == "batch_sampler" else flat


def rebuilt(loader: Any, **changes: Any) -> Any:
    """A loader with the options of another one, in the order of its dataset unless the changes say otherwise."""
    import torch
    from torch.utils.data import DataLoader

    names = ["collate_fn", "num_workers", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context"]
    names += [] if "batch_sampler" in changes else ["batch_size"]
    options = {name: getattr(loader, name) for name in names}
    options["pin_memory"] = loader.pin_memory and torch.accelerator.is_available()
    if loader.num_workers:
        options |= {name: getattr(loader, name) for name in ("prefetch_factor", "persistent_workers")}
    options |= changes
    if not options["num_workers"]:
        options |= {"multiprocessing_context": None, "timeout": 0}
        options = {
            name: value for name, value in options.items() if name not in ("prefetch_factor", "persistent_workers")
        }
    if loader.generator is not None:  # the user's own stays as it is
        options["generator"] = torch.Generator(loader.generator.device)
        options["generator"].set_state(loader.generator.get_state())
    return DataLoader(loader.dataset, **options)


def collates_by_default(loader: Any) -> bool:
    """Return whether a loader puts rows together as torch or ``byheart.network.columns`` does."""
    from torch.utils.data import default_collate

    return getattr(loader, "collate_fn", None) in (default_collate, collate_rows)
