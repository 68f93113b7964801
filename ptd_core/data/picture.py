"""A picture as a viewer shows it: which formats are decoded, and upright 8-bit RGB of whatever kind of pixels."""

from pathlib import Path

import numpy as np
from PIL import Image

from ptd_core.errors import DataError

# Told by content, whatever the file is called; PIL knows formats that start other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
# Tried only where the name says so: some of them take almost any bytes for theirs.
_BY_SUFFIX = {
    ".tif": "TIFF", ".tiff": "TIFF", ".gif": "GIF", ".ppm": "PPM", ".pgm": "PPM", ".pbm": "PPM", ".pnm": "PPM",
    ".dib": "DIB", ".jp2": "JPEG2000", ".j2k": "JPEG2000", ".jpx": "JPEG2000", ".avif": "AVIF", ".tga": "TGA",
    ".pcx": "PCX", ".qoi": "QOI",
}  # fmt: skip
_ORIENTATION, _PHOTOMETRIC = 0x0112, 262  # tags of Exif and of TIFF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def formats(name: str) -> tuple[str, ...]:
    """The formats that a file of this name may have."""
    extra = _BY_SUFFIX.get(Path(name).suffix.lower())
    if extra is None:
        return FORMATS
    Image.init()  # the usual formats are known without it
    return (*FORMATS, extra) if extra in Image.OPEN else FORMATS


def as_shown(image: Image.Image, name: str) -> Image.Image:
    """An opened picture as upright RGB.

    The first of several frames. What is transparent lies on white. 16-bit grey is scaled to 8 bits, black to black and
    white to white. Of Exif data the orientation alone is read, so that faults in the rest do not matter. Colour
    profiles are not applied. Raises DataError for pixels whose white is unknown (32 bits and floating point).
    """
    image.load()
    turn = _TURNS.get(_orientation(image))
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        grey = np.asarray(image).astype(np.int64).clip(0, 65535)
        if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0:  # white is zero
            grey = 65535 - grey
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    elif image.mode.startswith(("I", "F")):
        raise DataError(f"{name} has more than 16 bits a channel (mode {image.mode}); convert it to 8 bits.")
    elif image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGBA", layer.size, "white")
        image.alpha_composite(layer)
    rgb = image.convert("RGB")
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # faulty tags are answered with errors of a dozen kinds
        return 1
