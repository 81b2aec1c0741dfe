"""The colours of figures and pages, which people who see few colours can tell apart (Okabe and Ito 2008)."""

BLUE, VERMILION, ORANGE, LIGHT_BLUE, GREEN, PURPLE = "#0072B2", "#D55E00", "#E69F00", "#56B4E9", "#009E73", "#CC79A7"
YELLOW, GREY, LIGHT_GREY = "#F0E442", "#999999", "#d9dce1"
