"""Run a command while a model is served; URL in its words becomes the server's address.

python eval/bench/served.py --model FOLDER --log FILE -- COMMAND URL
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from common import vllm


def main() -> int:
    """Serve, run, stop."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    with vllm(args.log.parent, args.model, "--max-model-len", "8192") as url:
        command = [w.replace("URL", url) if w.endswith("URL") else w for w in args.command]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
