"""How the report looks: one style sheet, light or dark like the reader's screen, readable on a phone and on paper."""

from moeviz.charts import theme

TOKEN_COLOURS = (*theme.EXPERT_COLOURS, theme.OTHER)

_SHEET = """
:root { color-scheme: light dark; --line: color-mix(in srgb, CanvasText 22%, Canvas) }
* { box-sizing: border-box }
body { margin: 0; background: Canvas; color: CanvasText; font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
main { max-width: 60rem; margin: 0 auto; padding: 1rem 1rem 4rem }
h1 { font-size: 1.6rem; line-height: 1.25 }
h2 { margin: 3rem 0 0; padding-top: .6rem; border-top: 1px solid var(--line); font-size: 1.35rem }
h3 { margin: 2.2rem 0 .3rem; font-size: 1.08rem }
p { margin: .3rem 0 .6rem }
nav { margin-top: 1rem }
nav a { display: inline-block; margin: .2rem 1rem .2rem 0; color: LinkText }
.caution { padding: .6rem .9rem; border-left: 4px solid ACCENT }
.why { padding: .6rem .9rem }
picture { display: block; margin: .6rem 0; padding: 8px; background: #fff }
picture, .why, .numbers { border: 1px solid var(--line); border-radius: 6px }
img { display: block; max-width: 100%; height: auto; margin: 0 auto }
details { margin: .3rem 0 }
summary { padding: .2rem 0; cursor: pointer }
pre { margin: .3rem 0; font: .85rem/1.45 ui-monospace, monospace; white-space: pre-wrap }
table { border-collapse: collapse }
th, td { padding: .2rem .7rem .2rem 0; text-align: left; vertical-align: top; unicode-bidi: isolate }
.facts th { min-width: 8rem; font-weight: 600 }
.numbers { max-height: 26rem; overflow: auto; overflow-wrap: normal }
.numbers table { min-width: 100%; font-size: .82rem; font-variant-numeric: tabular-nums }
.numbers th, .numbers td { padding: .2rem .6rem; text-align: right; white-space: nowrap }
.numbers th { position: sticky; top: 0; background: Canvas; border-bottom: 1px solid var(--line) }
.text { direction: ltr; font: .92rem/2.1 ui-monospace, monospace }
.text span { display: inline-block; max-width: 100%; padding: 0 3px; margin: 1px; border-radius: 4px; line-height: 1.4;
  unicode-bidi: isolate; white-space: pre-wrap; vertical-align: bottom; border-bottom: 2px solid transparent }
.text .missing { background: repeating-linear-gradient(135deg, var(--line) 0 1px, transparent 1px 5px) }
.text .generated { border-bottom: 2px dotted CanvasText }
.text i { margin: 0 .4rem; padding-left: .4rem; border-left: 3px solid ACCENT; font: .8rem system-ui, sans-serif }
sub { margin-left: 3px; font-size: .68em }
footer { margin-top: 3rem; padding-top: .6rem; border-top: 1px solid var(--line); font-size: .9rem }
@media print { span { print-color-adjust: exact } picture { break-inside: avoid } }
"""


def sheet() -> str:
    """The style sheet, with a class for each colour of TOKEN_COLOURS: c0, c1 and so on."""
    classes = (
        f".text .c{number} {{ background: {colour}; color: {ink_on(colour)} }}"
        for number, colour in enumerate(TOKEN_COLOURS)
    )
    return _SHEET.replace("ACCENT", theme.ACCENT) + "\n".join(classes)


def ink_on(colour: str) -> str:
    """Black or white, whichever has the higher contrast on that colour (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    luminance = sum(factor * part for factor, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "#000" if luminance > 0.179 else "#fff"
