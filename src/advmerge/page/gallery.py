"""The gallery: pictures as data URIs, and who says what of them."""

from __future__ import annotations

import base64
import io
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from advmerge import figures
from advmerge.figures_gallery import Example, amplification

if TYPE_CHECKING:
    import numpy

LOSSLESS = 64
"""Images with a longer side, in pixels, are stored as WebP instead of PNG: a page of photographs stays small."""


def image_uri(image: numpy.ndarray) -> str:
    """An image [C, H, W] in [0, 1], C being 1 or 3, as a data URI."""
    import numpy as np
    from PIL import Image

    pixels = np.clip(np.rint(255 * image), 0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    form, options = ("png", {"optimize": True}) if max(picture.size) <= LOSSLESS else ("webp", {"quality": 90})
    content = io.BytesIO()
    picture.save(content, form, **options)
    return f"data:image/{form};base64,{base64.b64encode(content.getvalue()).decode()}"


def spelt(name: str) -> str:
    """A class name; a single foreign letter with its name, for fonts and screen readers that lack it.

    >>> spelt("क"), spelt("grass")
    ('क (ka)', 'grass')
    """
    if len(name) == 1 and not name.isascii():
        return f"{name} ({unicodedata.name(name, f'U+{ord(name):04X}').split()[-1].lower()})"
    return name


def gallery(examples: Sequence[Example], order: figures.Order) -> dict[str, Any]:
    """The rows of the gallery: pictures as data URIs, and who says what of the adversarial one."""
    factor = amplification(examples) if examples else 1
    rows = []
    for example in examples:
        once_right = {name: says for name, says in example.targets.items() if name not in example.wrong_clean}
        answers = [("surrogate", example.surrogate, False)]
        answers += [
            (order.label(name), example.targets[name], name in example.wrong_clean)
            for name in order.among(example.targets, order.targets)
        ]
        rows.append(
            {
                "task": order.label(example.task),
                "label": spelt(example.label),
                "clean": image_uri(example.clean),
                "adversarial": image_uri(example.adversarial),
                "difference": image_uri(0.5 + factor * (example.adversarial - example.clean)),
                "answers": [
                    {
                        "model": model,
                        "says": spelt(says),
                        "state": "right" if says == example.label else "wrong before" if already else "wrong",
                    }
                    for model, says, already in answers
                ],
                "fooled": sum(says != example.label for says in once_right.values()),
                "targets": len(once_right),
            }
        )
    return {"rows": rows, "factor": factor}
