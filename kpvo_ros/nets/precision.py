"""Where bfloat16 pays."""

from __future__ import annotations

import torch


def profits_from_bfloat16(device: torch.device) -> bool:
    """True where the device multiplies bfloat16 in hardware.

    A CPU without such instructions emulates it several times slower than float32.
    """
    if device.type == 'cuda':
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == 'cpu':
        # The question has no public name in torch 2; a version that lacks it gets float32.
        ask = getattr(torch.cpu, '_is_avx512_bf16_supported', None)
        return bool(ask and ask())
    return False
