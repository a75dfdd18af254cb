"""`python -m llmcat`: the command line without its script."""

from llmcat.cli.main import script

script()
