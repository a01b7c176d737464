"""The benchmark: four services that people write today, and the rendered one beside them."""

import sys
from pathlib import Path

# For `dev`, the embedded servers of the rendered service.
sys.path.append(str(Path(__file__).parents[1] / "template"))
