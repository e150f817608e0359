"""The report's colours: texts are readable, series differ for people who see fewer colours."""

from itertools import combinations

import numpy
import pytest

from eagle_hf.evaluation.charts.theme import DARK, LIGHT, SERIES, STEPS, text_on, with_variables

SCHEMES = {"light": LIGHT, "dark": DARK}
# What linear RGB becomes for people without one kind of cone (Machado et al. 2009, severity 1).
BLINDNESS = {
    "none": numpy.eye(3),
    "protanopia": numpy.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": numpy.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": numpy.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
XYZ = numpy.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = XYZ.sum(axis=1)
DIFFERENT = 14.0  # CIE 1976; 2.3 is just noticeable


def linear(colour: str) -> numpy.ndarray:
    """Linear RGB [3] of #rrggbb."""
    parts = numpy.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)]) / 255
    return numpy.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """As WCAG defines it."""
    lightness = sorted(float(XYZ[1] @ linear(colour)) for colour in (one, other))
    return (lightness[1] + 0.05) / (lightness[0] + 0.05)


def lab(colour: str, blindness: str) -> numpy.ndarray:
    """CIE Lab [3] of what someone sees."""
    seen = numpy.clip(BLINDNESS[blindness] @ linear(colour), 0, 1)
    share = XYZ @ seen / WHITE
    root = numpy.where(share > 0.008856, numpy.cbrt(share), 7.787 * share + 16 / 116)
    x, y, z = root
    return numpy.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_texts_have_the_contrast_of_wcag(scheme):
    colours = SCHEMES[scheme]
    for role in ("ink", "muted"):
        assert contrast(colours[role], colours["surface"]) >= 4.5
    roles = {colour: role for role, colour in LIGHT.items()}
    for number, step in enumerate(STEPS):
        text = roles[text_on(number)]
        assert contrast(colours[text], colours[step]) >= 4.5, step


@pytest.mark.parametrize("scheme", SCHEMES)
def test_series_stand_out_from_the_page(scheme):
    colours = SCHEMES[scheme]
    for role in (*SERIES, "plain"):
        assert contrast(colours[role], colours["surface"]) >= 3, role


@pytest.mark.parametrize("blindness", BLINDNESS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_series_differ_for_everyone(scheme, blindness):
    colours = SCHEMES[scheme]
    for one, other in combinations((*SERIES, "plain"), 2):
        apart = numpy.linalg.norm(lab(colours[one], blindness) - lab(colours[other], blindness))
        assert apart >= DIFFERENT, f"{one} and {other} are {apart:.1f} apart"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_steps_of_a_scale_go_one_way_in_lightness(scheme):
    lightness = [lab(SCHEMES[scheme][step], "none")[0] for step in STEPS]
    assert lightness == sorted(lightness, reverse=scheme == "light")


def test_both_schemes_have_the_same_roles_and_no_colour_twice():
    assert list(LIGHT) == list(DARK)
    assert len(set(LIGHT.values())) == len(LIGHT)


def test_a_drawing_follows_the_scheme():
    drawing = '<path style="stroke: #0068a8; fill: none"/><text fill="#123456">#ab</text>'
    expected = drawing.replace("#0068a8", "var(--series-1)")
    assert with_variables(drawing) == expected
