// How the page of `report --html` looks. Colours keep a contrast of 4.5 to their background for
// text, in both schemes; bars differ in pattern, too, for who sees no colours.
#include "host/cli/html_report.h"

namespace virt_reclaim {

absl::string_view HtmlStyle() {
  return R"(:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --text: #1b1f24; --faint: #59636e; --line: #d5dae0;
  --used: #2f6f9f; --gain: #c2570c; --other: #9aa4af; --empty: #e8ebef; --bad: #a40e26;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --card: #1d2126; --text: #e6e9ed; --faint: #9da7b3; --line: #363c44;
    --used: #5aa2d6; --gain: #f0883e; --other: #6b7580; --empty: #2b3036; --bad: #ff8182;
  }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
p { margin: .3rem 0; }
.faint { color: var(--faint); }
.bad { color: var(--bad); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1rem; }
.tiles { display: flex; flex-wrap: wrap; gap: 1rem; margin-top: 1rem; }
.card, .tile { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: 1rem; }
.tile { flex: 1 1 9rem; }
.tile b { display: block; font-size: 1.35rem; }
.bar { display: flex; height: 1.1rem; min-width: 8rem; overflow: hidden; border-radius: .25rem;
  background: var(--empty); print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.used { background: var(--used); }
.gain { background: repeating-linear-gradient(45deg, var(--gain) 0 5px, transparent 5px 8px), var(--card); }
.other { background: var(--other); }
.key { display: inline-block; width: .8em; height: .8em; border-radius: .15em; border: 1px solid var(--line);
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.empty { background: var(--empty); }
.legend span { margin-right: 1rem; white-space: nowrap; }
.scroll { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; background: var(--card); }
th, td { padding: .4rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: middle; }
th { font-weight: 600; color: var(--faint); }
td.number, th.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td.name { overflow-wrap: anywhere; max-width: 16rem; }
td.name:first-child { min-width: 8rem; }
code { font-size: .9em; }
svg { display: block; width: 100%; height: 4.5rem; margin-top: .6rem; }
svg.small { width: 7rem; height: 1.6rem; margin: 0; }
polyline { fill: none; stroke: var(--used); stroke-width: 2; vector-effect: non-scaling-stroke; }
.dates { display: flex; justify-content: space-between; font-size: .85em; color: var(--faint); }
@media print {
  :root { color-scheme: light; --page: #fff; --card: #fff; --text: #000; --faint: #444; --line: #bbb;
    --used: #2f6f9f; --gain: #c2570c; --other: #9aa4af; --empty: #e8ebef; --bad: #a40e26; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  .card, .tile, tr { break-inside: avoid; }
  thead { display: table-header-group; }
}
)";
}

}  // namespace virt_reclaim
