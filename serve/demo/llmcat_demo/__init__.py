"""The demo model: `model/` beside this file, for `llmcat --engine demo` and `make demo`."""
