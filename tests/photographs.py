"""Image folders and parquet shards that tests make up: small pictures of many sizes, with noise, so that all differ."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CLASSES = ("ant", "bee", "cat")


def photograph(rng, kind="PNG"):
    """A picture as bytes, of some size and shape."""
    height, width = rng.integers(12, 60, 2)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    content = io.BytesIO()
    image.save(content, kind)
    return content.getvalue()


def image_folder(folder, train=12, test=4, classes=CLASSES):
    """train/ and test/ with so many pictures of each class, JPEG and PNG."""
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("test", test)):
        for name in classes:
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                kind = ("JPEG", "PNG")[i % 2]
                (folder / part / name / f"{i:03d}.{kind.lower()}").write_bytes(photograph(rng, kind))
    return folder


def shard(path, pictures, columns, *, image="image", names=None, own_names=None, image_type=None):
    """A parquet file as the hub writes them. columns: {name: labels}; names: {column: class names}."""
    inner = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    own_names = own_names or [None] * len(pictures)
    rows = [{"bytes": content, "path": name} for content, name in zip(pictures, own_names)]
    table = pa.table({image: pa.array(rows, image_type or inner), **{name: pa.array(v) for name, v in columns.items()}})
    if names is not None:
        about = {name: {"dtype": "int64", "_type": "Value"} for name in columns}
        about |= {name: {"names": list(texts), "_type": "ClassLabel"} for name, texts in names.items()}
        features = {image: {"_type": "Image"}, **about}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=5)
