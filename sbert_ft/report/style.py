"""The style sheet of the page: one column on a phone, dark mode if the reader prefers it, nothing cut off in print.

Colours can be distinguished by readers with red-green colour blindness (blue and vermilion) and are never the only
sign: lines of "before" and "no match" are also dashed. Text has a contrast of at least 4.5 to 1 in both colour
schemes.
"""

from __future__ import annotations

from typing import Final

_LIGHT: Final = """
--ground:#fff;--card:#f6f7f8;--ink:#1b1f23;--soft:#545b63;--rule:#d4d9de;--grid:#e3e6e9;
--after:#005fa8;--before:#6a6f75;--yes:#005fa8;--no:#b84a00;--chance:#6a6f75;--faint:#9dbfdc;--alarm:#fff3e6;--heat:#6aa3d5;
""".strip().replace("\n", "")

_DARK: Final = """
--ground:#15181b;--card:#1e2226;--ink:#e9ebed;--soft:#b1b8bf;--rule:#3d444b;--grid:#30363c;
--after:#6db8ff;--before:#a7adb4;--yes:#6db8ff;--no:#ffa45c;--chance:#a7adb4;--faint:#3f6788;--alarm:#3a2a18;--heat:#2a5f92;
""".strip().replace("\n", "")

_PAGE: Final = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.5 system-ui,"Segoe UI",Roboto,"Noto Sans",
"Noto Sans CJK KR","Apple SD Gothic Neo","Malgun Gothic",sans-serif;overflow-wrap:anywhere}
main{max-width:67rem;margin:0 auto;padding:1rem}
h1{font-size:1.6rem;line-height:1.25;margin:.5rem 0 1rem}
h2{font-size:1.25rem;margin:2.5rem 0 .75rem;padding-top:.75rem;border-top:1px solid var(--rule)}
h3{font-size:1.05rem;margin:1.5rem 0 .5rem}
p{margin:.5rem 0;max-width:46rem}
.note{color:var(--soft);font-size:.875rem}
.verdict{font-size:1.1rem;max-width:none;margin:0 0 1rem;padding:.75rem 1rem;background:var(--card);
border-left:.4rem solid var(--soft)}
.verdict strong{font-size:1.2em}
.verdict.better{border-color:var(--yes)}
.verdict.worse{border-color:var(--no)}
.warnings{background:var(--alarm);border-left:.4rem solid var(--no);padding:.5rem 1rem}
.warnings h2{margin:.25rem 0;padding:0;border:0}
.warnings ul{margin:.25rem 0;padding-left:1.2rem}
.warnings li{margin:.35rem 0}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,21rem),1fr));gap:1rem 2rem;align-items:start}
table{border-collapse:collapse;width:100%;margin:.5rem 0 1rem;font-size:.9375rem;font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600;padding:.25rem 0}
th,td{text-align:left;vertical-align:top;padding:.35rem .6rem .35rem 0;border-bottom:1px solid var(--rule)}
thead th{color:var(--soft);font-size:.8125rem;font-weight:600;border-bottom:2px solid var(--rule);
vertical-align:bottom}
tbody th{font-weight:600}
.facts th{width:34%;font-weight:400;color:var(--soft)}
.numbers td,.numbers th{overflow-wrap:break-word}
.found tbody th,.numbers .small:not(.interval){overflow-wrap:anywhere}
.found td:nth-child(3){white-space:nowrap}
.numbers td,.numbers thead th:not(:first-child){text-align:right;padding:.35rem 0 .35rem .6rem}
.small{display:block;color:var(--soft);font-size:.8125rem;font-weight:400}
.control{color:var(--no);font-family:ui-monospace,monospace;font-size:.85em}
figure{margin:0;break-inside:avoid}
figcaption{font-size:.875rem;color:var(--soft);margin:.1rem 0 .5rem}
figcaption b{color:var(--ink)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,19rem),1fr));gap:1.25rem 1.5rem}
.charts figure{max-width:28rem}
.charts.wide{grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr))}
.scroll{overflow-x:auto;margin:.5rem 0 1rem}
.scroll table{margin:0}
.counts{width:auto;min-width:60%}
.counts td,.counts thead th{overflow-wrap:normal;white-space:nowrap}
.counts th:first-child{min-width:7rem;white-space:normal;overflow-wrap:anywhere}
.scroll.drawing figure{min-width:36rem;max-width:60rem}
.worst th{white-space:nowrap}
.worst .number{text-align:right;white-space:nowrap;padding:.35rem 0 .35rem .6rem}
.worst .word{padding-left:.6rem;min-width:5rem}
.worst td.texts{width:60%}
.worst .text{display:block}
.worst .text+.text{margin-top:.25rem;padding-top:.25rem;border-top:1px dotted var(--rule)}
details summary{cursor:pointer;font-weight:600;padding:.5rem 0}
pre{margin:0;padding:.75rem;background:var(--card);font-size:.8125rem;white-space:pre-wrap;overflow-wrap:anywhere}
@media (min-width:62rem){
.pair.uneven{grid-template-columns:minmax(0,1.4fr) minmax(0,1fr)}
.uneven .interval{white-space:nowrap}
}
@media (max-width:40rem){
main{padding:.75rem}
h1{font-size:1.35rem}
.numbers{font-size:.875rem}
.numbers td,.numbers thead th:not(:first-child){padding-left:.4rem}
.worst,.worst tbody{display:block}
.worst thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.worst caption{display:block}
.worst tr{display:grid;grid-template-columns:repeat(4,1fr);padding:.6rem 0;border-bottom:1px solid var(--rule)}
.worst th,.worst td{border:0;padding:.1rem 0}
.worst th{grid-column:1/-1;font-size:.8125rem;color:var(--soft)}
.worst th::before{content:"Line "}
.worst td.texts{grid-column:1/-1;width:auto;padding-bottom:.35rem}
.worst td.number{text-align:left;padding:0;font-size:.875rem}
.worst td.word{padding:0 .5rem 0 0;min-width:0;font-size:.875rem}
.worst td[data-label]::before{content:attr(data-label);display:block;color:var(--soft);font-size:.8125rem}
}
@media (max-width:22.5rem){
.numbers,.numbers .small,.numbers thead th{font-size:.75rem}
}
"""

_CHARTS: Final = """
svg{display:block;width:100%;height:auto;font-size:12px;fill:var(--ink)}
svg text{fill:var(--soft)}
svg .label{fill:var(--ink)}
svg .small{font-size:10px}
svg .halo{paint-order:stroke;stroke:var(--ground);stroke-width:4px}
svg .grid{stroke:var(--grid)}
svg .axis{stroke:var(--soft)}
svg .line{fill:none;stroke-width:1.8;stroke-linejoin:round}
svg .line.after{stroke:var(--after)}
svg .line.before{stroke:var(--before);stroke-dasharray:5 3}
svg .line.faint{stroke:var(--faint);stroke-width:1}
svg .line.chance{stroke:var(--chance);stroke-dasharray:1.5 3}
svg .line.mark{stroke:var(--ink);stroke-dasharray:7 3}
svg .line.solid{stroke-dasharray:none}
svg .area{stroke-width:1.5;fill-opacity:.25;stroke-linejoin:round}
svg .area.yes{fill:var(--yes);stroke:var(--yes)}
svg .area.no{fill:var(--no);stroke:var(--no);stroke-dasharray:4 2}
svg circle.after{fill:var(--after)}
svg circle.before{fill:var(--before)}
svg circle.hollow{fill:var(--ground);stroke:var(--before);stroke-width:2}
svg circle.mark{fill:none;stroke:var(--ink);stroke-width:2}
svg .dots path{fill:none;stroke-width:4.5;stroke-linecap:round;stroke-opacity:.35}
svg .dots.after path{stroke:var(--after)}
svg .dots.before path{stroke:var(--before)}
svg .cells.after{fill:var(--after)}
svg .cells.before{fill:var(--before)}
svg .heat{fill:var(--heat)}
svg .heat-right{fill:none;stroke:var(--ink);stroke-width:1.2}
svg .shade1{fill-opacity:.15}svg .shade2{fill-opacity:.32}svg .shade3{fill-opacity:.5}
svg .shade4{fill-opacity:.72}svg .shade5{fill-opacity:1}
"""

_PRINT: Final = """
@page{margin:14mm}
@media print{
.scroll{overflow:visible}
.scroll.drawing figure{min-width:0}
:root{color-scheme:light}
body{font-size:10pt}
main{max-width:none;padding:0}
h2,h3,caption{break-after:avoid}
tr,figure,.verdict,.warnings li{break-inside:avoid}
thead{display:table-header-group}
.charts{display:block;orphans:1;widows:1}
#worst{break-before:page}
.charts figure{display:inline-block;width:48%;margin:0 1% 4mm 0;vertical-align:top}
details::details-content{content-visibility:visible;display:block;height:auto}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
}
"""

STYLE: Final = (
    f":root{{color-scheme:light dark;{_LIGHT}}}\n"
    f"@media screen and (prefers-color-scheme:dark){{:root{{{_DARK}}}}}"
    f"{_PAGE}{_CHARTS}{_PRINT}"
)
