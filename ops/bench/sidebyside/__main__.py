"""`python -m sidebyside`."""

import sys

from sidebyside.run import main

sys.exit(main())
