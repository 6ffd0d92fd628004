"""scikit-learn's handwritten digits: 1,797 grey pictures of 8 x 8 pixels in 10 classes.

Source: Alpaydin & Kaynak 1998, "Optical Recognition of Handwritten Digits" (UCI), whose test set
scikit-learn carries.
"""

from typing import Any

import numpy as np

from skipjax.training.pictures import Pictures


def read() -> Pictures:
    """The digits, uint8 [1797, 8, 8, 1], ink light on black, the source's 0 .. 16 as 0 .. 255.

    Raises:
        ValueError: If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ValueError(
            "the digits come with scikit-learn: pip install 'skipjax[train]'"
        ) from None
    found: Any = load_digits()
    images = np.rint(found["images"][..., None] * (255 / 16)).astype(np.uint8)
    labels = found["target"].astype(np.int32)
    return Pictures(images, labels, (), tuple("0123456789"))
