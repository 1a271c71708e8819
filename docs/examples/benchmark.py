"""A benchmark of one's own: is a handwritten digit even or odd?"""

import io

from PIL import Image

from stablerep.evaluation.benchmarks import BENCHMARKS
from stablerep.evaluation.splits import Benchmark, BenchmarkData, LabelledPicture, from_pictures
from stablerep.runtime import seed_for


def parity(data: BenchmarkData) -> Benchmark:  # noqa: ARG001 -- these data come with scikit-learn
    """The 1,797 digits of scikit-learn by parity; 60 / 20 / 20 % by a hash of the picture's number."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    parts: dict[str, list[LabelledPicture]] = {"train": [], "validation": [], "test": []}
    for number, (image, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        share = seed_for("parity", number) / 2**63
        split = "train" if share < 0.6 else "validation" if share < 0.8 else "test"
        label = "odd" if digit % 2 else "even"
        # What succeeds or fails together is one group: intervals are drawn over groups. Here each picture is its own.
        parts[split].append(LabelledPicture(png(image), label, f"digit {number}", split, None))
    return from_pictures(
        "parity", train=parts["train"], validation=parts["validation"], tests={"test": parts["test"]}
    )


def png(image: object) -> bytes:
    """An array of 8 x 8 numbers from 0 to 16 as an encoded picture of 32 pixels."""
    drawn = Image.fromarray((image * 255 / 16).astype("uint8")).resize((32, 32))  # type: ignore[operator]
    buffer = io.BytesIO()
    drawn.convert("RGB").save(buffer, format="PNG")
    return buffer.getvalue()


BENCHMARKS["parity"] = parity  # type: ignore[index]
