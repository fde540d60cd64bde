"""`python -m hospital_assets.cli`."""

import sys

from hospital_assets.cli import main

sys.exit(main())
