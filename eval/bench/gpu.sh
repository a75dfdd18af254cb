#!/bin/sh
# The engine contract and the throughput on a machine with an NVIDIA GPU and vLLM's GPU build.
#
#     eval/bench/gpu.sh [OUT]            # OUT: folder for logs and results, default out/gpu
#
# MODELS: names of shapes (qwen3-4b, qwen3-8b: real architectures with dummy weights) or folders with
# a model; ITEMS: how many; PYTHON: an environment with llmcat and vLLM (default .venv/bin/python).
# Without a GPU it runs as well: MODELS=serve/demo/llmcat_demo/model ITEMS=500 eval/bench/gpu.sh
set -eu
cd "$(dirname "$0")/../.."
OUT=${1:-out/gpu}
PYTHON=${PYTHON:-.venv/bin/python}
MODELS=${MODELS:-"qwen3-4b qwen3-8b"}
ITEMS=${ITEMS:-20000}
mkdir -p "$OUT"

echo "== engine contract, the demo model"
DEMO=serve/demo/llmcat_demo/model
$PYTHON eval/bench/served.py --model "$DEMO" --log "$OUT/contract.log" -- \
    env LLMCAT_VLLM_URL=URL "$PYTHON" -m pytest -q tests/engines/test_engines.py -k "vllm_http or posterior or names or reasons"

echo "== the demo model in this process"
$PYTHON eval/bench/local.py | tee "$OUT/local.md"

for model in $MODELS; do
    echo "== $model"
    case $model in
        qwen3-*) folder="$OUT/$model"; extra="--load-format dummy"
                 $PYTHON eval/bench/shapes.py "$model" "$folder" ;;
        *) folder=$model; extra="" ;;
    esac
    # shellcheck disable=SC2086  extra is words
    $PYTHON eval/bench/throughput.py --model "$folder" --items "$ITEMS" -- $extra \
        | tee "$OUT/$(basename "$folder").md"
done
