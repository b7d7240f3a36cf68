"""How a cartoon face becomes pixels: signed distances, batched over faces, anti-aliased at any size.

Everything is a differentiable function of the continuous parameters, on CPU or GPU. Three shapes suffice (ellipse,
rounded box, lens); the values of an attribute differ in the numbers given to a shape, not in code, so one pass draws
any mixture of faces. Lengths are in face units: the image is 1 wide at scale 1, y points down, the eyes lie at y = 0.
"""

import torch
from torch import Tensor

REGIONS = ("background", "shirt", "skin", "hair", "eyes", "mouth", "glasses", "hat")

# One row a value of the attribute, in the order of `faces.ATTRIBUTES`.
EYES = torch.tensor([[-0.080, 0.080], [-0.036, 0.040], [0.005, 0.062]])  # round, narrow, closed: upper and lower lid
MOUTH = torch.tensor(
    [[-0.005, 0.110], [-0.080, 0.005], [-0.030, 0.030], [-0.055, 0.105]]
)  # smiling, sad, calm, surprised
GLASSES = torch.tensor([[0.0, 0.10, 0.0], [1.0, 0.118, 0.0], [1.0, 0.024, 0.0], [1.0, 0.07, 1.0]])  # worn, corner, dark
# worn | crown: half-width, half-height, corner | brim: shift, half-width, half-height | pompom radius
HAT = torch.tensor(
    [
        [0.0, 0.20, 0.10, 0.05, 0.00, 0.20, 0.030, 0.001],  # none
        [1.0, 0.27, 0.125, 0.12, 0.14, 0.27, 0.030, 0.001],  # cap: the brim looks to one side
        [1.0, 0.27, 0.150, 0.145, 0.00, 0.295, 0.050, 0.065],  # beanie
        [1.0, 0.20, 0.170, 0.02, 0.00, 0.36, 0.032, 0.001],  # top hat
    ]
)
# front hair, its growth beyond the head, curls | back hair: present, half-width, corner, lower end
HAIR = torch.tensor(
    [
        [0.0, 0.00, 0.000, 0.0, 0.20, 0.10, 0.10],  # bald
        [1.0, 0.035, 0.000, 0.0, 0.20, 0.10, 0.10],  # short
        [1.0, 0.05, 0.022, 1.0, 0.390, 0.30, 0.26],  # curly
        [1.0, 0.03, 0.000, 1.0, 0.340, 0.20, 0.52],  # long
    ]
)
INK, WHITE, SHADES, LIPS, TONGUE = (
    (0.10, 0.09, 0.12),
    (0.99, 0.99, 0.97),
    (0.12, 0.13, 0.20),
    (0.62, 0.09, 0.13),
    (0.97, 0.52, 0.52),
)


def ellipse(u: Tensor, v: Tensor, rx: Tensor, ry: Tensor) -> Tensor:
    """How far a point (u [n, 1, w], v [n, h, 1] from the centre) lies inside an ellipse; negative outside."""
    return (1 - ((u / rx) ** 2 + ((v / ry) ** 2 + 1e-8)).sqrt()) * (rx * ry) ** 0.5


def box(u: Tensor, v: Tensor, rx: Tensor, ry: Tensor, corner: Tensor) -> Tensor:
    """The same for a rectangle of half sides rx, ry with rounded corners."""
    qx, qy = u.abs() - rx + corner, v.abs() - ry + corner
    outside = (qx.clamp(min=0) ** 2 + (qy.clamp(min=0) ** 2 + 1e-8)).sqrt()
    return corner - outside - torch.maximum(qx, qy).clamp(max=0)


def lens(u: Tensor, v: Tensor, half: Tensor, upper: Tensor, lower: Tensor) -> Tensor:
    """The same for the space between two arcs that meet at u = -half and u = half: an eye, a mouth, a brow."""
    t = (u / half).clamp(-1, 1)
    arch = 1 - 0.5 * t**2 - 0.5 * t**4
    slope = (t + 2 * t**3) / half
    above = (v - upper * arch) / (1 + (upper * slope) ** 2).sqrt()
    below = (lower * arch - v) / (1 + (lower * slope) ** 2).sqrt()
    return torch.minimum(torch.minimum(above, below), half - u.abs())


def layers(p: dict[str, Tensor], size: int) -> list[tuple[str, Tensor, Tensor]]:
    """The face's parts from back to front: (region, coverage [n, size, size] in [0, 1], colour [n, 3]).

    `p` holds one entry a parameter: long [n] for attributes, float [n] for geometry, float [n, 3] for colours.
    """
    n, device = len(p["x"]), p["x"].device
    number = lambda value: torch.as_tensor(value, device=device).expand(n).view(n, 1, 1)
    rows = lambda table, name: table.to(device)[p[name]].T.reshape(-1, n, 1, 1)
    paint = lambda rgb: torch.tensor(rgb, device=device).expand(n, 3)
    x, y, s, spacing = (number(p[k]) for k in ("x", "y", "scale", "spacing"))
    rx, ry = 0.290 * number(p["width"]), number(0.320)
    centres = (torch.arange(size, device=device) + 0.5) / size
    u, v = (centres.view(1, 1, -1) - 0.5 - x) / s, (centres.view(1, -1, 1) - 0.56 - y) / s
    side = u.abs() - spacing  # measured from the nearer eye
    cover = lambda inside: (inside * (size * s) + 0.5).clamp(0, 1)  # a ramp one pixel wide
    skin, hair, hat = p["skin_rgb"], p["hair_rgb"], p["hat_rgb"]
    out: list[tuple[str, Tensor, Tensor]] = []
    add = lambda region, coverage, colour: out.append((region, coverage, colour))

    front, growth, curl, back, back_half, corner, end = rows(HAIR, "hair_style")
    ripple = curl * torch.sin(u * 42) * torch.sin(v * 42 + 0.8)
    add("hair", back * cover(box(u, v - (end - 0.33) / 2, back_half, (end + 0.33) / 2, corner) + ripple), hair * 0.80)
    add("shirt", cover(ellipse(u, v - 0.62, number(0.46), number(0.25))), p["shirt_rgb"])
    add("skin", cover(box(u, v - 0.33, number(0.11), number(0.115), number(0.06))), skin * 0.80)  # neck
    add("skin", cover(ellipse(u.abs() - rx, v - 0.05, number(0.060), number(0.085))), skin * 0.88)  # ears
    head = cover(ellipse(u, v - 0.03, rx, ry))
    add("skin", head, skin)
    add("skin", head * (0.30 * ((u - 0.02) / rx).clamp(0, 1)), skin * 0.55)  # light comes from the left
    cheeks = 0.38 * cover(ellipse(u.abs() - 0.195, v - 0.125, number(0.062), number(0.042)))
    add("skin", head * cheeks, skin * paint((1.0, 0.55, 0.55)))
    add("skin", cover(ellipse(u - 0.006, v - 0.105, number(0.030), number(0.038))), skin * 0.78)  # nose

    fringe = ellipse(u, v - 0.02, rx + growth, ry + growth) + ripple
    face = ellipse(u - 0.035, v - 0.135, rx * 0.91, ry * 0.95) + ripple  # what the fringe leaves free
    add("hair", front * cover(torch.minimum(torch.minimum(fringe, -face), 0.115 - v)), hair)
    brow = v + 0.125 + p["brow"].view(n, 1, 1) * side
    add("skin", cover(lens(side, brow, number(0.080), number(-0.020), number(0.016))), skin * 0.36)

    upper, lower = rows(EYES, "eyes")
    open_ = (upper < 0).float()
    add(
        "eyes",
        cover(lens(side, v, number(0.088), upper, lower)),
        torch.lerp(paint(INK), paint(WHITE), open_.view(n, 1)),
    )
    inner = open_ * cover(lens(side, v, number(0.088), upper, lower) - 0.004)
    look = u - torch.sign(u) * spacing - number(p["gaze"])
    add("eyes", inner * cover(ellipse(look, v, number(0.042), number(0.050))), paint(INK))
    add("eyes", inner * cover(ellipse(look + 0.016, v + 0.018, number(0.016), number(0.016))), paint(WHITE))

    upper, lower = rows(MOUTH, "mouth")
    mouth = lens(u, v - 0.205, number(0.105), upper, lower)
    add("mouth", cover(mouth), paint(LIPS))
    teeth = (p["mouth"] == 0).float().view(n, 1, 1) * cover(mouth - 0.014) * cover(0.245 - v)
    add("mouth", teeth, paint(WHITE))
    tongue = (p["mouth"] == 3).float().view(n, 1, 1) * cover(mouth - 0.012) * cover(v - 0.228)
    add("mouth", tongue, paint(TONGUE))

    worn, corner, dark = rows(GLASSES, "glasses")
    outer = box(side, v, number(0.120), number(0.118), corner)
    frame = cover(outer) * (1 - (1 - dark) * cover(outer - 0.026))
    bridge = cover(box(u, v + 0.01, spacing - 0.10, number(0.016), number(0.005)))
    arms = cover(box(u.abs() - 0.27, v + 0.02, number(0.045), number(0.016), number(0.005)))
    add("glasses", worn * torch.maximum(frame, torch.maximum(bridge, arms)), paint(SHADES))
    glint = cover(ellipse(side + 0.045, v + 0.055, number(0.030), number(0.016)))
    add("glasses", worn * dark * glint * 0.75, paint(WHITE))

    worn, half, high, corner, shift, brim_half, brim_high, pompom = rows(HAT, "hat")
    base = -0.195  # the brim's height
    crown = cover(box(u, v - base + high, half, high + 0.02, corner))
    add("hat", worn * cover(ellipse(u, v - base + 2 * high + 0.02, pompom, pompom)) * (pompom > 0.01), hat * 0.6 + 0.4)
    add("hat", worn * crown, hat)
    add("hat", worn * crown * (0.35 * ((u - 0.02) / half).clamp(0, 1)), hat * 0.5)
    add("hat", worn * cover(box(u - shift, v - base, brim_half, brim_high, number(0.025))), hat * 0.72)
    return out


def compose(p: dict[str, Tensor], size: int, shares: bool = False) -> tuple[Tensor, Tensor | None]:
    """Image [n, 3, size, size] in [0, 1]; with `shares` also what part of every pixel each region owns [n, len(REGIONS), size, size]."""
    parts, n = layers(p, size), len(p["x"])
    weight = parts[0][1].new_empty(n, len(parts) + 1, size, size)
    clear = torch.ones_like(parts[0][1])
    for k, (_, coverage, _) in reversed(list(enumerate(parts, start=1))):
        weight[:, k] = clear * coverage
        clear = clear - weight[:, k]
    weight[:, 0] = clear
    colours = torch.stack([p["background_rgb"], *(colour for *_, colour in parts)], 2)  # [n, 3, layers]
    image = (colours @ weight.flatten(2)).view(n, 3, size, size)
    glow = 0.06 - 0.16 * ((torch.arange(size, device=image.device) + 0.5) / size).view(1, 1, -1, 1)
    image = (image + glow * clear.unsqueeze(1) * p["background_rgb"].view(n, 3, 1, 1)).clamp(0, 1)
    if not shares:
        return image, None
    owners = torch.tensor([0, *(REGIONS.index(region) for region, *_ in parts)], device=image.device)
    members = torch.nn.functional.one_hot(owners, len(REGIONS)).T.to(weight)
    return image, (members @ weight.flatten(2)).view(n, len(REGIONS), size, size)
