"""Captioned cartoon faces, the data set of every embedded model: unlimited, exact, nothing to download.

Face k depends on k alone. Twelve pairs of attribute values never meet in training and validation; the test range has a
`seen` part without them and an `unseen` part in which every face shows at least one.
"""

from numbers import Integral

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .drawing import REGIONS, compose

ATTRIBUTES = {  # name: {value: share of the faces before the pairs below are taken out}
    "skin": {"light": 0.25, "tan": 0.25, "brown": 0.25, "dark": 0.25},
    "hair_style": {"bald": 0.16, "short": 0.28, "curly": 0.28, "long": 0.28},
    "hair_colour": {"black": 0.2, "brown": 0.2, "blond": 0.2, "red": 0.2, "grey": 0.2},
    "eyes": {"round": 0.4, "narrow": 0.3, "closed": 0.3},
    "glasses": {"none": 0.4, "round": 0.2, "square": 0.2, "sunglasses": 0.2},
    "mouth": {"smiling": 0.25, "sad": 0.25, "calm": 0.25, "surprised": 0.25},
    "hat": {"none": 0.4, "cap": 0.2, "beanie": 0.2, "top hat": 0.2},
    "hat_colour": {"red": 0.25, "blue": 0.25, "green": 0.25, "yellow": 0.25},
    "background": {"blue": 0.25, "green": 0.25, "pink": 0.25, "yellow": 0.25},
}
HIDDEN = "hidden"
HIDES = {"hair_colour": ("hair_style", "bald"), "eyes": ("glasses", "sunglasses"), "hat_colour": ("hat", "none")}
UNSEEN_PAIRS = (  # never together outside the unseen part
    (("skin", "light"), ("hair_colour", "grey")),
    (("skin", "dark"), ("background", "pink")),
    (("hair_style", "long"), ("mouth", "sad")),
    (("hair_style", "bald"), ("glasses", "square")),
    (("hair_colour", "red"), ("hat_colour", "blue")),
    (("hair_colour", "blond"), ("background", "green")),
    (("eyes", "closed"), ("mouth", "surprised")),
    (("eyes", "narrow"), ("hat", "top hat")),
    (("glasses", "round"), ("hat", "beanie")),
    (("mouth", "calm"), ("skin", "tan")),
    (("hat", "cap"), ("hair_style", "curly")),
    (("hat_colour", "yellow"), ("background", "blue")),
)
GEOMETRY = {  # name: (lowest, highest); lengths are fractions of the image width
    "x": (-0.05, 0.05), "y": (-0.02, 0.05), "scale": (0.86, 1.06), "width": (0.92, 1.06),
    "spacing": (0.130, 0.145), "brow": (-0.25, 0.25), "gaze": (-0.022, 0.022),
}  # fmt: skip
PALETTE = {
    "skin": [(0.98, 0.83, 0.72), (0.88, 0.66, 0.46), (0.64, 0.43, 0.28), (0.46, 0.31, 0.23)],
    "hair": [(0.13, 0.11, 0.13), (0.42, 0.25, 0.13), (0.93, 0.77, 0.34), (0.80, 0.29, 0.12), (0.70, 0.71, 0.75)],
    "hat": [(0.84, 0.18, 0.22), (0.18, 0.36, 0.80), (0.18, 0.58, 0.34), (0.95, 0.79, 0.18)],
    "background": [(0.55, 0.78, 0.95), (0.62, 0.85, 0.60), (0.97, 0.70, 0.79), (0.97, 0.92, 0.60)],
    "shirt": [(0.45, 0.45, 0.50)],
}
COLOURS = {  # name of the colour parameter: (attribute that names it, brightness range, range of each channel)
    "skin_rgb": ("skin", 0.035, 0.015), "hair_rgb": ("hair_colour", 0.045, 0.025), "hat_rgb": ("hat_colour", 0.06, 0.03),
    "background_rgb": ("background", 0.03, 0.03), "shirt_rgb": (None, 0.20, 0.25),
}  # fmt: skip
SPLITS = {  # first index and length
    ("train", "seen"): (0, 1_000_000), ("validation", "seen"): (1_000_000, 20_000),
    ("test", "seen"): (2_000_000, 20_000), ("test", "unseen"): (3_000_000, 20_000),
}  # fmt: skip


def uniforms(index: np.ndarray, count: int, attempt: int = 0) -> np.ndarray:
    """`count` numbers in [0, 1) for every index, a pure function of (index, attempt): splitmix64, vectorised."""
    with np.errstate(over="ignore"):
        z = index.astype(np.uint64)[:, None] * np.uint64(1 << 16) + np.arange(count, dtype=np.uint64)
        z = (z + np.uint64(attempt << 12)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


def value_index(attribute: str, value: str) -> int:
    return list(ATTRIBUTES[attribute]).index(value)


def has_unseen_pair(codes: dict[str, np.ndarray]) -> np.ndarray:
    """Whether each face (attribute codes [n]) shows, visibly, one of UNSEEN_PAIRS: bool [n]."""

    def shows(attribute, value):
        seen = np.asarray(codes[attribute]) == value_index(attribute, value)
        if attribute in HIDES:
            seen &= np.asarray(codes[HIDES[attribute][0]]) != value_index(*HIDES[attribute])
        return seen

    return np.any([shows(*a) & shows(*b) for a, b in UNSEEN_PAIRS], axis=0)


def sample_parameters(index, unseen: bool = False) -> dict[str, Tensor]:
    """Parameters of the faces of these global indices: long [n] attributes, float [n] geometry, float [n, 3] colours."""
    index = np.atleast_1d(np.asarray(index))
    codes = {name: np.zeros(len(index), dtype=np.int64) for name in ATTRIBUTES}
    todo = np.arange(len(index))
    for attempt in range(1, 200):  # redraw the attributes until the pairs are as they should be
        draws = uniforms(index[todo], len(ATTRIBUTES), attempt)
        for j, (name, values) in enumerate(ATTRIBUTES.items()):
            codes[name][todo] = np.searchsorted(np.cumsum(list(values.values()))[:-1], draws[:, j], side="right")
        todo = todo[has_unseen_pair({k: c[todo] for k, c in codes.items()}) != unseen]
        if not len(todo):
            break
    p = {name: torch.from_numpy(code) for name, code in codes.items()}
    draws = torch.from_numpy(uniforms(index, len(GEOMETRY) + 4 * len(COLOURS))).float()
    for j, (name, (low, high)) in enumerate(GEOMETRY.items()):
        p[name] = low + (high - low) * draws[:, j]
    for j, (name, (attribute, bright, tint)) in enumerate(COLOURS.items()):
        own = 2 * draws[:, len(GEOMETRY) + 4 * j : len(GEOMETRY) + 4 * j + 4] - 1
        base = torch.tensor(PALETTE[name.removesuffix("_rgb")])
        chosen = base[p[attribute]] if attribute else base.expand(len(index), 3)
        p[name] = (chosen + bright * own[:, :1] + tint * own[:, 1:]).clamp(0, 1)
    return p


def visible(p: dict[str, Tensor], row: int = 0) -> dict[str, str]:
    """Attribute values of one row of a parameter batch; what another attribute covers is "hidden"."""
    values = {name: list(ATTRIBUTES[name])[int(p[name][row])] for name in ATTRIBUTES}
    return {k: HIDDEN if k in HIDES and values[HIDES[k][0]] == HIDES[k][1] else v for k, v in values.items()}


def visible_mask(p: dict[str, Tensor], attribute: str) -> Tensor:
    """Whether the attribute can be seen on each face: bool [n]."""
    if attribute not in HIDES:
        return torch.ones(len(p["x"]), dtype=torch.bool)
    return p[HIDES[attribute][0]] != value_index(*HIDES[attribute])


def caption(attributes: dict[str, str]) -> str:
    """A natural English sentence for attribute values; hidden ones are left out."""
    a = attributes
    hair = "no hair" if a["hair_style"] == "bald" else f"{a['hair_style']} {a['hair_colour']} hair"
    parts = [f"{a['skin']} skin", hair]
    if a["eyes"] != HIDDEN:
        parts.append(f"{a['eyes']} eyes")
    if a["glasses"] != "none":
        parts.append(a["glasses"] if a["glasses"] == "sunglasses" else f"{a['glasses']} glasses")
    if a["hat"] != "none":
        parts.append(f"a {a['hat_colour']} {a['hat']}")
    return f"a {a['mouth']} face with {', '.join(parts[:-1])} and {parts[-1]} on a {a['background']} background"


def captions(p: dict[str, Tensor]) -> list[str]:
    """The caption of every row of a parameter batch."""
    return [caption(visible(p, row)) for row in range(len(p["x"]))]


def to_rows(p: dict[str, Tensor]) -> list[dict]:
    """A parameter batch as one plain dict a face: attribute values by name, numbers, colours as [r, g, b]."""
    rows = []
    for i in range(len(p["x"])):
        row = visible(p, i)
        row |= {k: float(p[k][i]) for k in GEOMETRY} | {k: p[k][i].tolist() for k in COLOURS}
        rows.append(row)
    return rows


def from_rows(rows: list[dict]) -> dict[str, Tensor]:
    """The inverse of `to_rows`; a hidden attribute takes its first value, which cannot be seen.

    Raises ValueError for a missing parameter or an unknown attribute value.
    """
    missing = {k for row in rows for k in (*ATTRIBUTES, *GEOMETRY, *COLOURS) if k not in row}
    if missing:
        raise ValueError(f"parameters: missing {sorted(missing)}")
    p: dict[str, Tensor] = {}
    for name, values in ATTRIBUTES.items():
        for row in rows:
            if row[name] != HIDDEN and row[name] not in values:
                raise ValueError(f"{name}: got {row[name]!r}, allowed are {', '.join(values)} and {HIDDEN}")
        p[name] = torch.tensor([0 if row[name] == HIDDEN else value_index(name, row[name]) for row in rows])
    return p | {k: torch.tensor([row[k] for row in rows], dtype=torch.float32) for k in (*GEOMETRY, *COLOURS)}


def draw_batch(p: dict[str, Tensor], size: int = 64, masks: bool = False):
    """Images float32 [n, 3, size, size] in [0, 1]; with `masks` also bool [n, len(REGIONS), size, size], one owner a pixel."""
    image, shares = compose(p, size, shares=masks)
    if not masks:
        return image
    return image, torch.zeros_like(shares, dtype=torch.bool).scatter_(1, shares.argmax(1, keepdim=True), True)


def draw(parameters: dict, size: int = 64) -> Tensor:
    """Draw one face from its parameters (as in `Faces(...)[k]["parameters"]`): float32 [3, size, size] in [0, 1]."""
    return draw_batch(from_rows([parameters]), check_size(size))[0]


def check_size(size: int) -> int:
    if not isinstance(size, Integral) or isinstance(size, bool) or not 16 <= size <= 2048:
        raise ValueError(f"size: got {size!r}, allowed is a whole number of pixels from 16 to 2048")
    return int(size)


class Faces(Dataset):
    """The captioned faces of one split.

    `split`: "train", "validation" or "test"; `part` (test only): "seen" or "unseen" pairs of values; `size`: pixels.
    An item is {"image": float32 [3, size, size] in [0, 1], "caption": str, "attributes": dict, "parameters": dict,
    "masks": dict of bool [size, size], one a region, a partition of the pixels}. Raises ValueError for an unknown split,
    IndexError beyond the end.
    """

    def __init__(self, split: str = "train", size: int = 64, part: str = "seen"):
        if (split, part) not in SPLITS:
            raise ValueError(f"split, part: got {split!r}, {part!r}; allowed are {sorted(SPLITS)}")
        self.split, self.part, self.size = split, part, check_size(size)
        self.first, self.length = SPLITS[split, part]

    def __len__(self) -> int:
        return self.length

    def parameters(self, indices) -> dict[str, Tensor]:
        """Parameters of many faces at once, as `draw_batch` takes them."""
        indices = np.atleast_1d(np.asarray(indices))
        if len(indices) and (indices.min() < 0 or indices.max() >= self.length):
            raise IndexError(f"index {indices.min()} .. {indices.max()} outside 0 .. {self.length - 1}")
        return sample_parameters(self.first + indices, unseen=self.part == "unseen")

    def images(self, indices) -> Tensor:
        """Images of many faces at once: float32 [n, 3, size, size] in [0, 1]."""
        pieces = np.array_split(np.asarray(indices, dtype=np.int64), max(1, -(-len(indices) // 32)))
        drawn = [draw_batch(self.parameters(part), self.size) for part in pieces if len(part)]
        return torch.cat(drawn) if drawn else torch.empty(0, 3, self.size, self.size)

    def __getitem__(self, k: int) -> dict:
        if not isinstance(k, Integral):
            raise ValueError(f"index: got {k!r}, allowed is a whole number")
        p = self.parameters(k + self.length if k < 0 else k)
        image, masks = draw_batch(p, self.size, masks=True)
        attributes = visible(p)
        return {"image": image[0], "caption": caption(attributes), "attributes": attributes,
                "parameters": to_rows(p)[0], "masks": dict(zip(REGIONS, masks[0], strict=True))}  # fmt: skip
