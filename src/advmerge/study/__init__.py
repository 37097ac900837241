"""The study as a typed, validated object: the only reader of params.yaml.

:func:`load` reads the file and checks what can be checked without heavy imports; :func:`check` asks the registries,
timm and ART. The Snakefile calls both before the first job. ``Study``'s methods give every artifact's path and the
slice of the study that it depends on; rules, the audit and the tests all ask here.
"""

from advmerge.study.checking import check, fingerprint
from advmerge.study.reading import load
from advmerge.study.whole import Study

__all__ = ["Study", "check", "fingerprint", "load"]
