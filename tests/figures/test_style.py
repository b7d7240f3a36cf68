import io

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from frugal.figures import style


def drawn(scale="quick"):
    with style.canvas() as (figure, axes):
        axes.plot([0, 1])
    return style.finish(figure, "name", "A line.", "A caption.", style.About(scale, "a machine"))


def texts(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(lambda part: hasattr(part, "get_text")))


def test_the_device_stands_in_the_figure_and_in_its_caption():
    result = drawn()
    assert "a machine" in texts(result.figure) and "a machine" in result.caption


def test_only_a_smoke_run_is_watermarked():
    assert style.SMOKE in texts(drawn("smoke").figure) and "not a result" in drawn("smoke").caption
    assert style.SMOKE not in texts(drawn().figure) and "not a result" not in drawn().caption


def test_the_panel_is_opaque_white_in_any_theme():
    picture = Image.open(io.BytesIO(drawn().png())).convert("RGBA")
    assert picture.getpixel((2, 2)) == (255, 255, 255, 255)


def test_a_figure_is_saved_under_its_name(tmp_path):
    file = drawn().save(tmp_path / "figures")
    assert file.name == "name.png" and Image.open(file).width > 1000


def test_a_run_of_ones_own_replaces_no_figure_of_the_book(monkeypatch, tmp_path):
    monkeypatch.setenv("FRUGAL_RESULTS", str(tmp_path / "records"))
    assert style.folder() == tmp_path / "runs" / "figures"
    monkeypatch.setenv("FRUGAL_DRAWN", str(tmp_path / "book"))
    assert style.folder() == tmp_path / "book" / "figures"
    monkeypatch.delenv("FRUGAL_DRAWN")
    monkeypatch.delenv("FRUGAL_RESULTS")
    assert "test" in style.folder("smoke").parts and "test" not in style.folder("quick").parts


def test_displaying_saves_and_brings_alternative_text_and_caption(monkeypatch, tmp_path):
    monkeypatch.setenv("FRUGAL_RESULTS", str(tmp_path / "records"))
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *objects, **options: shown.extend(objects))
    monkeypatch.setattr("frugal.figures.glue.show", lambda figure, alt: shown.append(alt))
    drawn()._ipython_display_()
    assert shown[0] == "A line." and "A caption." in shown[1].data
    assert (tmp_path / "runs" / "figures" / "name.png").exists()


def test_pixel_and_latent_models_keep_their_colours_whatever_their_order():
    forward, backward = style.colours(["faces-ddpm", "faces-ldm"]), style.colours(["faces-ldm", "faces-ddpm"])
    assert forward == backward and len(set(style.colours(["a", "b", "faces-ldm", "c"]).values())) == 4


def test_ratios_and_changes_are_written_as_per_cent():
    with style.canvas() as (_, axes):
        style.ratio_axis(axes, np.array([0, 0.5]))
        style.percent_axis(axes.yaxis)
    form = axes.yaxis.get_major_formatter()
    assert (form(-0.05, 0), form(0.01, 0), form(0, 0)) == ("−5%", "+1%", "0%")
