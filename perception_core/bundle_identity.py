"""What makes a bundle this bundle: a measurement of one is none of another."""

from __future__ import annotations

import hashlib
import json

from perception_core.bundle import BundleSpec

#: Keys of bundle.yaml that change neither what a bundle computes nor how fast.
_WORDS = frozenset({"name", "training", "labels"})
#: The same of a component's variant: how good it was found to be.
_WORDS_OF_VARIANT = frozenset({"calibration", "errors", "metrics", "metrics_data"})


def bundle_identity(spec: BundleSpec) -> str:
    """Returns a hash of a bundle's network, weights, graphs and signatures; not of its name and notes."""
    # Without defaults: a new key of a later version shall not make every older measurement void.
    content = spec.model_dump(mode="json", exclude=set(_WORDS), exclude_defaults=True)
    for component in content["components"].values():
        for variant in component.get("variants", {}).values():
            for word in _WORDS_OF_VARIANT:
                variant.pop(word, None)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
