"""How the page looks: fonts of the system, no file from another host, light and dark as the browser asks."""

from __future__ import annotations

import gradio as gr

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
FONTS_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def theme() -> gr.themes.Base:
    """Return the theme; plain strings are fonts of the system, which nothing has to be fetched for."""
    return gr.themes.Default(
        primary_hue="teal", secondary_hue="teal", neutral_hue="slate", font=FONTS, font_mono=FONTS_MONO,
        spacing_size="sm", radius_size="md",
    ).set(button_primary_background_fill="*primary_600", button_primary_background_fill_dark="*primary_600",
          button_primary_background_fill_hover="*primary_700", button_primary_text_color="white")  # fmt: skip


# An attribute is one row: its name, three buttons side by side, and a slider that shows once a state is asked for.
CSS = """
.gradio-container { max-width: none !important; }
.gradio-container > .main { max-width: 1240px !important; width: 100%; margin: 0 auto; padding: 10px 16px !important; }
main.contain, main.contain > .column { width: 100%; }
#title, #title > * { padding: 0 !important; }
#title h1 { font-size: 1.35rem; margin: 0; }
#title p { margin: 0; color: var(--body-text-color-subdued); }
.hint p { color: var(--body-text-color-subdued); font-size: .86rem; margin: 0; }
.sides { gap: 20px; }
.heading { padding: 0 !important; }
.heading p { margin: 6px 0 0; font-size: .72rem; font-weight: 600; letter-spacing: .06em; text-transform: uppercase;
  color: var(--body-text-color-subdued); }
.attributes { gap: 4px !important; }
.attribute { display: grid !important; grid-template-columns: 6.6rem max-content minmax(60px, 1fr); align-items: center;
  gap: 0 12px; min-height: 28px; }
.attribute.plain { grid-template-columns: minmax(6.6rem, 1fr) max-content; }
.attribute > * { min-width: 0 !important; padding: 0 !important; overflow: visible !important; margin: 0 !important; }
.attribute .name p { font-size: .9rem; line-height: 1.15; margin: 0; }
.states > .wrap { display: flex; flex-wrap: nowrap; gap: 0; }
.states label { padding: 2px 10px; font-size: .82rem; border-radius: 0; margin: 0 0 0 -1px; box-shadow: none;
  min-height: 26px; justify-content: center; cursor: pointer; }
.states label:first-child { border-radius: 6px 0 0 6px; margin: 0; }
.states label:last-child { border-radius: 0 6px 6px 0; }
.states label > span { margin: 0 !important; }
.states label:focus-within { outline: 2px solid var(--primary-500); outline-offset: 1px; }
.states input { position: absolute; opacity: 0; width: 1px !important; height: 1px !important; pointer-events: none; }
.states label.selected { background: var(--primary-600); border-color: var(--primary-600); color: white; }
.states label.selected:first-child { background: var(--neutral-200); border-color: var(--neutral-300);
  color: var(--neutral-800); }
.dark .states label.selected:first-child { background: var(--neutral-700); border-color: var(--neutral-600);
  color: var(--neutral-100); }
.attribute:has(.states label.selected:first-child) .strength { visibility: hidden; }
.strength > .wrap { display: flex; flex-direction: row-reverse; align-items: center; gap: 8px; }
.strength .slider_input_container { flex: 1; min-width: 0; }
.strength .head, .strength .head .tab-like-container { margin: 0; height: auto; min-height: 0; width: auto; flex: none; }
.strength .head label { display: none; }
.strength input[type=range] { width: 100%; margin: 0; left: 0; }
.strength input[type=number] { width: 3rem; min-width: 0; height: 24px; padding: 0 4px; font-size: .8rem; margin: 0; }
.strength .min_value, .strength .max_value { display: none; }
.seed { flex-wrap: nowrap; align-items: end; gap: 6px; }
.dice { font-size: .85rem !important; font-weight: 400 !important; padding: 0 10px !important; height: 40px;
  margin-bottom: 11px; }
.chips > .wrap { gap: 5px; }
.chips label { padding: 2px 10px; font-size: .82rem; border-radius: 999px; min-height: 26px; box-shadow: none;
  cursor: pointer; }
.chips label > span { margin: 0 !important; }
.chips input { position: absolute; opacity: 0; width: 1px !important; height: 1px !important; pointer-events: none; }
.chips label.selected { background: var(--primary-600); border-color: var(--primary-600); color: white; }
.chips label:focus-within { outline: 2px solid var(--primary-500); outline-offset: 1px; }
.examples { flex-wrap: wrap !important; gap: 5px !important; }
.examples button { flex: none !important; width: auto !important; padding: 2px 10px; font-size: .82rem; font-weight: 400;
  border-radius: 999px; min-height: 26px; }
#generate-gallery .grid-wrap { max-height: 560px; min-height: 180px; }
#personalize-gallery .grid-wrap { max-height: 620px; min-height: 180px; }
#personalize-gallery .thumbnail-item { aspect-ratio: auto; height: auto; }
#personalize-gallery .thumbnail-item img { height: auto; }
@media (max-width: 640px) {
  .gradio-container > .main { padding: 6px 10px !important; }
  .tab-container button { padding: 0 9px !important; font-size: .88rem !important; }
  .attribute { grid-template-columns: 5.4rem max-content minmax(40px, 1fr); gap: 0 8px; min-height: 32px; }
  .states label { padding: 2px 8px; min-height: 30px; }
  .strength input[type=number] { width: 2.4rem; }
}
"""
