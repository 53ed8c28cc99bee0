"""LanceDB without the REST client of its namespaces, which nothing here uses.

That client is generated code whose import takes 1.4 of LanceDB's 3.4 seconds, and people wait for
them: at each command, and for their first answer. Only its models are needed for the import.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

_CLIENT = "lance_namespace_urllib3_client"


def load() -> Any:
    """The module `lancedb`."""
    spec = None if _CLIENT in sys.modules else importlib.util.find_spec(_CLIENT)
    if spec is not None and spec.submodule_search_locations:
        bare = ModuleType(_CLIENT)  # the package without what its __init__ would import
        bare.__spec__ = spec
        bare.__path__ = list(spec.submodule_search_locations)
        sys.modules[_CLIENT] = bare
    return importlib.import_module("lancedb")
