"""Whether a bill of materials is one: `sbom_schema.py sbom.cdx.json`, by the schema that the CycloneDX library brings.

Runs in the environment of `make tools`, which has that library.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator


def main(path: Path) -> str | None:
    """What is wrong, if anything."""
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(path.read_text(encoding="utf-8"))
    if error is None:
        print(f"{path}: CycloneDX 1.6")
        return None
    return f"{path}: {error.data}"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
