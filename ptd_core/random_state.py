"""The state of PyTorch's own random generators: the CPU's and that of the device which computes."""

import torch
from torch import Tensor


def random_state(device: torch.device) -> dict[str, Tensor]:
    """{"cpu": ..., and "cuda" or "mps" where the device is one}: byte tensors on the CPU."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(device: torch.device, state: dict[str, Tensor]) -> None:
    """Go on drawing where `state` was taken. What a state from another kind of device lacks stays as it is."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])
