"""Small lists for a GPU, without waiting for it."""

import torch


def upload(values: list, device: torch.device) -> torch.Tensor:
    """`torch.tensor(values)` on a device; to a GPU from pinned memory, for a copy from any other waits for all that was queued before."""
    if device.type != "cuda":
        return torch.tensor(values, device=device)
    return torch.tensor(values, device="cpu", pin_memory=True).to(device, non_blocking=True)
