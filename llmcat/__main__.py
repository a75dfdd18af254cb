"""`python -m llmcat`: the command line without its script."""

import sys

from llmcat.cli.main import main

sys.exit(main())
