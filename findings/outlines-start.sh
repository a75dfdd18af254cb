#!/usr/bin/env bash
# Importing Outlines' grammar language imports transformers, for a model that is not there.
#
# Expected: `from outlines.types.dsl import Choice, to_regex` (strings in, a string out) loads what
# makes regular expressions.
# Seen (outlines 1.3.3, transformers 5.19.0 from PyPI, Linux x86-64, Python 3.11):
#     transformers is loaded: 0.79 s; 0.20 s where transformers is not to be found
# `outlines/__init__` loads every model it can drive, among them that for MLX, which imports
# transformers' base tokenizer at its top, in a try; its other models import transformers when they
# are made. So a program that only wants a regular expression pays for it wherever transformers is
# installed. Fails where transformers is no longer loaded.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/v"
"$here/v/bin/pip" install --quiet outlines==1.3.3 transformers==5.19.0
cat > "$here/start.py" <<'EOF'
import sys
import time

if sys.argv[1:] == ["without"]:
    sys.modules["transformers"] = None
began = time.perf_counter()
from outlines.types.dsl import Choice, to_regex

print(to_regex(Choice(["a", "b"])), f"{time.perf_counter() - began:.2f} s,",
      "transformers is", "loaded" if sys.modules.get("transformers") else "not loaded")
sys.exit(sys.argv[1:] != ["without"] and not sys.modules.get("transformers"))
EOF
for _ in 1 2; do  # the first run compiles
    "$here/v/bin/python" "$here/start.py"
    "$here/v/bin/python" "$here/start.py" without
done
