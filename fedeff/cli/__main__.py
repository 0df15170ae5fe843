"""`python -m fedeff.cli`, for where the console script is not on the path."""

import sys

from fedeff.cli.main import main

sys.exit(main())
