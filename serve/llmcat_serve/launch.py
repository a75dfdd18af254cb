"""`llmcat serve model`: start vLLM from a profile.

The process becomes the server (exec), so Ctrl-C, signals and exit codes are vLLM's own.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata, util
from pathlib import Path

from llmcat.engines.hardware import cpuinfo, lacks_bf16
from llmcat.errors import BadConfig

__all__ = ["command_for", "main", "profiles"]

_PROFILES = Path(__file__).parent / "profiles"
_MODULE = "vllm.entrypoints.openai.api_server"
ON_EITHER = ("classify", "decide")
"""Profiles of what a model is for, whatever it runs on."""
DECIDES = (
    "ClefOmniForJointSchema", "DiffusionGemmaForBlockDiffusion", "Lfm2VlForConditionalGeneration",
    "Qwen3ForCausalLM", "Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration",
)  # fmt: skip
"""Architectures that vLLM 0.32 lets decide (READ_STRATEGIES in its structured_decisions)."""
_EPILOG = """\
examples:
  llmcat serve model --model Qwen/Qwen3-4B-Instruct-2507
  llmcat serve model --model ./my-model --profile cpu --print
  llmcat serve model --model ./my-student --profile classify   # an encoder that classifies
  llmcat serve model --model ./my-qwen3 --profile decide       # a model that answers /v1/systemone
  llmcat serve model --model NAME -- --max-model-len 8192   # vLLM's own flags after --

--model is a name on the model hub or a folder. The server listens on loopback only.
"""


def main(argv: list[str]) -> int:  # noqa: RET503  exec does not return
    """Run `llmcat serve ...`; return an exit code, or never, once the server has taken over."""
    parser = argparse.ArgumentParser(
        prog="llmcat serve",
        description="Start a model server that llmcat can use.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=["model"], help="model: a vLLM server")
    parser.add_argument("--model", required=True, help="name on the model hub, or a folder")
    parser.add_argument("--name", default="", help="name to serve it by (default: the model's)")
    parser.add_argument("--port", type=int, default=8000, help="port on loopback (default: 8000)")
    parser.add_argument(
        "--profile", choices=profiles(), help="default: gpu where there is one, cpu elsewhere"
    )
    parser.add_argument("--print", action="store_true", help="print the command, start nothing")
    argv, extra = _split(argv)
    args = parser.parse_args(argv)
    profile = args.profile or _device()
    _check_model(args.model, profile)
    environment, command = command_for(
        args.model, profile=profile, name=args.name, port=args.port, extra=extra
    )
    if args.print:
        words = [*(f"{k}={v}" for k, v in environment.items()), *command]
        print(shlex.join(words))
        return 0
    _check_installed(_device() if profile in ON_EITHER else profile)
    print(f"{profile} profile: {shlex.join(command)}", file=sys.stderr, flush=True)
    os.execve(command[0], command, {**os.environ, **environment})


def profiles() -> list[str]:
    """Return the names of the profiles."""
    return sorted(p.stem for p in _PROFILES.glob("*.toml") if p.stem != "common")


def command_for(
    model: str, *, profile: str, name: str = "", port: int = 8000, extra: list[str] | None = None
) -> tuple[dict[str, str], list[str]]:
    """Return the environment and the command line that serve a model under a profile.

    The environment that is set already wins over the profile's. vLLM's own flags in `extra`
    come last, so they win too. `classify` and `decide` build on the profile of the device that is
    there.
    On a CPU without instructions for bfloat16, which most models are kept in, they are computed
    in float32: ten times as fast, in twice the memory.
    """
    environment: dict[str, str] = {}
    arguments: dict[str, object] = {}
    device = (_device(),) if profile in ON_EITHER else ()
    for part in ("common", *device, profile):
        table = tomllib.loads((_PROFILES / f"{part}.toml").read_text("utf-8"))
        environment |= table["environment"]
        arguments |= table["arguments"]
    if "cpu" in (profile, *device) and lacks_bf16(cpuinfo()):
        arguments.setdefault("dtype", "float32")
    environment = {k: os.environ.get(k, v) for k, v in environment.items()}
    if arguments.get("tensor-parallel-size") == "all":
        arguments["tensor-parallel-size"] = max(1, _gpus())
    arguments |= {"port": port}
    if name:
        arguments["served-model-name"] = name
    command = [sys.executable, "-m", _MODULE, "--model", model]
    for flag, value in arguments.items():
        if value is False:
            continue
        command += [f"--{flag}"] if value is True else [f"--{flag}", str(value)]
    return environment, [*command, *(extra or [])]


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Split at `--`: ours before it, vLLM's after it."""
    at = argv.index("--") if "--" in argv else len(argv)
    return argv[:at], argv[at + 1 :]


def _device() -> str:
    """Return the profile of this machine: gpu where there is one, cpu elsewhere."""
    return "gpu" if _gpus() else "cpu"


def _gpus() -> int:
    """Count the NVIDIA GPUs without importing anything heavy."""
    try:
        listing = subprocess.run(
            ["nvidia-smi", "--list-gpus"],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in listing.splitlines())


def _check_model(model: str, profile: str) -> None:
    """Raise `BadConfig` for a folder that is not there, or whose model cannot do what it is for."""
    folder = Path(model).expanduser()
    looks_like_a_path = model.startswith((".", "/", "~")) or model.count("/") > 1
    if looks_like_a_path and not folder.exists():
        raise BadConfig(f"no model at {model}", hint="a folder with a config.json, or NAME/NAME")
    if not folder.is_dir():
        return
    try:
        made = json.loads((folder / "config.json").read_bytes())
        named = made.get("architectures") or []
    except FileNotFoundError:
        raise BadConfig(f"{model} holds no model", hint="it has no config.json") from None
    except (OSError, ValueError, AttributeError) as exc:
        raise BadConfig(f"{model}/config.json cannot be read: {exc}") from exc
    if profile == "decide" and named and not set(named) & set(DECIDES):
        raise BadConfig(
            f"vLLM does not let a {named[0]} decide",
            hint=f"it lets {', '.join(DECIDES)}; any chat model is served without --profile decide",
        )


def _check_installed(profile: str) -> None:
    """Raise `BadConfig` when vLLM is missing or known not to start."""
    extra = "cpu" if profile == "cpu" else "gpu"
    if util.find_spec("vllm") is None:
        raise BadConfig("vLLM is not installed here", hint=f'pip install "llmcat[{extra}]"')
    if extra == "cpu" and "+cpu" in _version("torch"):
        strange = [
            p for p in ("torchvision", "torchaudio", "torchcodec")
            if _version(p) and "+cpu" not in _version(p)
        ]  # fmt: skip
        if strange:
            raise BadConfig(
                f"{', '.join(strange)}: built for CUDA beside a torch built for CPU; "
                "vLLM would not start",
                hint=f"pip uninstall -y {' '.join(strange)}",
            )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
