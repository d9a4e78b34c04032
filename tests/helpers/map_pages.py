"""What a map's page holds, unpacked with NumPy; page/data.js does it in the browser."""

import base64
import json
import pathlib
import re
import urllib.parse

import numpy as np


def unpack(packed: dict) -> np.ndarray:
    """An array of the page."""
    kind = np.dtype("<" + packed["type"])
    return np.frombuffer(base64.b64decode(packed["base64"]), kind)


def read_page(page: pathlib.Path) -> dict:
    """What the page's script reads, with arrays and whole texts."""
    (found,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script',
        page.read_text(encoding="utf-8"),
        re.S,
    )
    data = json.loads(found)
    folder = unpack(data["folder"])
    rows = range(len(data["files"]))
    data["paths"] = [data["folders"][folder[n]] + data["files"][n] for n in rows]
    hrefs = data["hrefs"] or [None] * len(folder)
    data["hrefs"] = [
        data["links"][folder[n]] + urllib.parse.quote(data["files"][n])
        if hrefs[n] is None
        else hrefs[n]
        for n in rows
    ]
    for name in ("x", "y"):
        data[name] = unpack(data[name])
    k = data["num_neighbours"]
    if data["neighbours"] is not None:
        data["neighbours"] = unpack(data["neighbours"]).reshape(len(folder), k)
        data["scores"] = unpack(data["scores"]).reshape(len(folder), k) / 1e4
    for scheme in data["schemes"]:
        scheme["of"] = unpack(scheme["of"])
        if scheme["percent"] is not None:
            scheme["percent"] = unpack(scheme["percent"])
    return data
