// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The style of a page of HTML. Nine light colours with dark text on them (k0 to k8) and six of
// lines (l0 to l5) can be told apart by colour-blind eyes; blue and orange are more and less than
// 0.
#include "explain/page_style.h"

namespace longspan::rendering {

const char* const kWholePageStyle = R"(
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; background: #fcfcfb; }
body { margin: 0; }
.longspan { padding: 1.5rem max(1rem, calc(50vw - 30rem)) 4rem; }
@media (prefers-color-scheme: dark) { html { background: #15171b; } }
@media print { html { background: none; } .longspan { padding: 0; } }
)";

const char* const kPageStyle = R"(
.longspan {
  --paper: #fcfcfb; --panel: #f3f3f0; --ink: #1d1f23; --faint: #62666d; --rule: #d9d9d4; --link: #1f5fa8;
  --plus: #1f5fa8; --minus: #b35806;
  --l0: #1f5fa8; --l1: #b35806; --l2: #0f7a5f; --l3: #9a3a82; --l4: #6b6b0a; --l5: #55595f;
  color: var(--ink); background: var(--paper); color-scheme: light dark;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  overflow-wrap: anywhere; padding: .5rem 1rem 1rem;
}
@media (prefers-color-scheme: dark) { .longspan {
  --paper: #15171b; --panel: #1e2127; --ink: #e4e5e7; --faint: #a0a5ad; --rule: #363a42; --link: #86b8f2;
  --plus: #2f74bd; --minus: #b8631c;
  --l0: #6aaef5; --l1: #f0995a; --l2: #4cc3a0; --l3: #e08ac8; --l4: #cfc95a; --l5: #b3b8c0;
} }
.longspan * { box-sizing: border-box; }
.longspan h1 { font-size: 1.7rem; line-height: 1.25; font-weight: 650; margin: 0 0 .75rem; color: inherit; }
.longspan h2 { font-size: 1.3rem; line-height: 1.3; font-weight: 650; margin: 3rem 0 .5rem; padding-top: 1rem;
  border-top: 1px solid var(--rule); color: inherit; }
.longspan h3 { font-size: 1.02rem; line-height: 1.4; font-weight: 400; margin: 0 0 .25rem; color: inherit; }
.longspan p { margin: .4rem 0 .8rem; max-width: 44rem; }
.longspan code, .longspan pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: .86rem; color: inherit; background: none; padding: 0; border: 0; }
.longspan pre { background: var(--panel); border-radius: 6px; padding: .6rem .8rem; margin: .5rem 0; line-height: 1.5;
  overflow-x: auto; overflow-wrap: normal; white-space: pre; }
.longspan a { color: var(--link); text-decoration-thickness: 1px; text-underline-offset: .15em; }
.longspan nav { margin: 1.5rem 0 0; }
.longspan nav ol { margin: .3rem 0 0; padding-left: 1.6rem; columns: 19rem; column-gap: 2rem; }
.longspan nav li { margin: 0 0 .3rem; break-inside: avoid; }
.longspan .step { margin: 1.6rem 0 2.2rem; scroll-margin-top: 1rem; }
.longspan .step h3 code { font-size: 1rem; font-weight: 650; }
.longspan .step h3 .part { font-weight: 400; color: var(--faint); }
.longspan .shape, .longspan .also { color: var(--faint); }
.longspan .shape { white-space: normal; font-variant-numeric: tabular-nums; }
.longspan .also { font-size: .92rem; margin: 0 0 .4rem; }
.longspan figure { margin: .8rem 0; }
.longspan figcaption { color: var(--faint); font-size: .86rem; margin-top: .35rem; }
.longspan .scroll { overflow-x: auto; max-width: 100%; }
.longspan .maps { display: flex; flex-wrap: wrap; gap: 1.1rem 2rem; align-items: flex-start; padding: 2px 0; }
.longspan .maps svg { flex: 0 1 auto; }
.longspan .legend { flex: 0 0 100%; display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; }
.longspan svg { display: block; width: 100%; height: auto; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.longspan svg text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; fill: var(--ink);
  font-variant-numeric: tabular-nums; }
.longspan svg text.faint { fill: var(--faint); font-size: 11px; }
.longspan svg text.strong { font-weight: 600; }
.longspan svg text.number { font-size: 11.5px; pointer-events: none; }
.longspan svg text.dark { fill: #16181c; font-size: 11.5px; pointer-events: none; }
.longspan .cell { stroke: var(--rule); stroke-width: 1; fill: var(--paper); }
.longspan .plus, .longspan .all { fill: var(--plus); }
.longspan .all, .longspan .some { fill-opacity: .72; }
.longspan .minus { fill: var(--minus); }
.longspan .some { fill: var(--plus); pointer-events: none; }
.longspan .hatch { stroke: var(--faint); stroke-width: 1; opacity: .55; fill: none; pointer-events: none; }
.longspan .k0 { fill: #77aadd; } .longspan .k1 { fill: #ee8866; } .longspan .k2 { fill: #eedd88; }
.longspan .k3 { fill: #ffaabb; } .longspan .k4 { fill: #99ddff; } .longspan .k5 { fill: #44bb99; }
.longspan .k6 { fill: #bbcc33; } .longspan .k7 { fill: #cdb4e6; } .longspan .k8 { fill: #d5d5d5; }
.longspan .grid { stroke: var(--rule); stroke-width: 1; }
.longspan .axis { stroke: var(--faint); stroke-width: 1; }
.longspan .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.longspan .mark { stroke: var(--paper); stroke-width: 1; }
.longspan .l0 { stroke: var(--l0); } .longspan .l1 { stroke: var(--l1); stroke-dasharray: 7 3; }
.longspan .l2 { stroke: var(--l2); stroke-dasharray: 2 3; } .longspan .l3 { stroke: var(--l3); stroke-dasharray: 9 3 2 3; }
.longspan .l4 { stroke: var(--l4); stroke-dasharray: 4 2; } .longspan .l5 { stroke: var(--l5); stroke-dasharray: 12 4; }
.longspan .m0 { fill: var(--l0); } .longspan .m1 { fill: var(--l1); } .longspan .m2 { fill: var(--l2); }
.longspan .m3 { fill: var(--l3); } .longspan .m4 { fill: var(--l4); } .longspan .m5 { fill: var(--l5); }
.longspan svg .n0 { fill: var(--l0); } .longspan svg .n1 { fill: var(--l1); } .longspan svg .n2 { fill: var(--l2); }
.longspan svg .n3 { fill: var(--l3); } .longspan svg .n4 { fill: var(--l4); } .longspan svg .n5 { fill: var(--l5); }
.longspan .einsum { display: flex; flex-wrap: wrap; gap: .15rem 1.4rem; margin: .5rem 0; padding: 0; font-size: .92rem; }
.longspan .einsum div { margin: 0; }
.longspan .einsum dt, .longspan .einsum dd { display: inline; float: none; width: auto; padding: 0; }
.longspan .einsum dt { margin: 0; color: var(--faint); font-weight: 400; }
.longspan .einsum dd { margin: 0 0 0 .3rem; }
.longspan table { border-collapse: collapse; font-size: .82rem; line-height: 1.35; margin: .3rem 0; background: none;
  table-layout: auto; font-variant-numeric: tabular-nums; color: inherit; overflow-wrap: normal; }
.longspan thead, .longspan tr { border: 0; background: none; }
.longspan table caption { caption-side: bottom; text-align: left; color: var(--faint); padding-top: .3rem; }
.longspan th, .longspan td { padding: .12rem .5rem; text-align: right; white-space: nowrap; border: 0; background: none; }
.longspan th { font-weight: 400; color: var(--faint); }
.longspan thead th { border-bottom: 1px solid var(--rule); }
.longspan tbody th { text-align: left; border-right: 1px solid var(--rule); }
.longspan tbody th.group { border: 0; padding-top: .45rem; color: var(--ink); font-weight: 600; }
.longspan td.off { color: var(--faint); }
.longspan details { margin: .4rem 0; }
.longspan summary { cursor: pointer; color: var(--link); font-size: .92rem; }
@media (max-width: 30rem) {
  .longspan h1 { font-size: 1.4rem; } .longspan h2 { font-size: 1.15rem; margin-top: 2.2rem; }
  .longspan pre { font-size: .78rem; } .longspan .maps { gap: 1rem 1.2rem; }
}
@media print {
  .longspan { --paper: #fff; --panel: #f3f3f0; --ink: #000; --faint: #555; --rule: #ccc; --link: #000; --plus: #1f5fa8; --minus: #b35806;
    color-scheme: light; }
  .longspan .scroll, .longspan pre { overflow: visible; } .longspan pre { white-space: pre-wrap; }
  .longspan figure, .longspan tr { break-inside: avoid; } .longspan h2, .longspan h3 { break-after: avoid; }
  .longspan details::details-content { content-visibility: visible; block-size: auto; }
}
)";

std::string outranking(std::string rules) {
  const std::string name = std::string(".") + kPageClass;
  for (std::size_t at = 0; (at = rules.find(name, at)) != std::string::npos;
       at += 3 * name.size()) {
    rules.insert(at, name + name);
  }
  return rules;
}

}  // namespace longspan::rendering
