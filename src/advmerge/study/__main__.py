"""``python -m advmerge.study FILE…``: check study files, and say what is wrong with the first that is."""

import sys

from advmerge.errors import StudyError
from advmerge.study import check, load

try:
    for path in sys.argv[1:]:
        check(load(path))
except StudyError as error:
    sys.exit(f"error: {error}")
