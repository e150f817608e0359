"""`python -m eagle_hf.cli` is `eagle-hf`."""

import sys

from eagle_hf.cli.main import main

sys.exit(main())
