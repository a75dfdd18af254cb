"""What this machine's processor can do, as far as it says."""

from __future__ import annotations

from pathlib import Path

__all__ = ["cpuinfo", "lacks_bf16"]

BF16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""x86's instructions for bfloat16, and Arm's."""


def cpuinfo() -> str:
    """Return Linux' description of the processors, empty where there is none."""
    try:
        return Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return ""


def lacks_bf16(text: str) -> bool:
    """Tell whether a text like /proc/cpuinfo's lists features, none of them for bfloat16.

    Without them bfloat16 is worked out in other numbers, at about a tenth of the rate of float32.
    A text that lists no features tells nothing.
    """
    pairs = (line.partition(":") for line in text.lower().splitlines())
    listed = [
        set(words.split()) for name, _, words in pairs if name.strip() in {"flags", "features"}
    ]
    return bool(listed) and not any(words & BF16 for words in listed)
