"""The client of the Kubernetes API, for the operator's own calls and for the API's TokenReviews."""

import sys
from importlib.util import find_spec, module_from_spec

# These packages import all of their parts when they run, the synchronous client too: 10 MB that nothing here uses.
# A package that has not run still finds its submodules.
for _name in ("kubernetes", "kubernetes.aio"):
    _spec = find_spec(_name)
    if _name not in sys.modules and _spec is not None:
        sys.modules[_name] = module_from_spec(_spec)
vars(sys.modules["kubernetes"])["aio"] = sys.modules["kubernetes.aio"]
