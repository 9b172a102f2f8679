"""Looks of `deepknee.html`: sober, narrow screens and printing included."""

CSS = """\
:root { --ink: #20242a; --soft: #5b6470; --line: #d9dde2; --paper: #fff; --ground: #f4f5f7; --bar: #56b4e9;
  --chosen: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.45 system-ui, -apple-system,
  "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
header, footer, .failures { max-width: 1500px; margin: 0 auto; padding: 1rem 1.25rem; }
h1 { margin: 0; font-size: 1.5rem; font-weight: 600; }
h2 { margin: 0; font-size: 1.1rem; font-weight: 600; display: flex; justify-content: space-between;
  align-items: center; }
p { margin: .4rem 0 0; }
.notice { font-weight: 600; color: #8a3b00; }
.figures { display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin: .9rem 0 .4rem; }
.figures div { display: flex; flex-direction: column-reverse; }
.figures dt { color: var(--soft); font-size: .85rem; }
.figures dd { margin: 0; font-size: 1.5rem; font-variant-numeric: tabular-nums; line-height: 1.2; }
.filters { display: flex; flex-wrap: wrap; gap: .4rem 1rem; align-items: center; color: var(--soft);
  font-size: .9rem; margin-top: .6rem; }
.filters label { display: inline-flex; align-items: center; gap: .35rem; cursor: pointer; }
.grade { padding: .05rem .5rem; border-radius: .3rem; font-size: .9rem; font-weight: 600; white-space: nowrap; }
.g0 { background: #e3f0f8; color: #123a52; } .g1 { background: #c0ddef; color: #123a52; }
.g2 { background: #7fb8dc; color: #0b2b3f; }
.g3 { background: #2b7fb5; color: #fff; } .g4 { background: #0b4a75; color: #fff; }
.cards { max-width: 1500px; margin: 0 auto; padding: 0 1.25rem; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 29rem), 1fr)); }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: .5rem; padding: .9rem 1rem 1rem;
  content-visibility: auto; contain-intrinsic-size: auto 34rem; }
.file { margin: .1rem 0 .6rem; color: var(--soft); font-size: .85rem; overflow-wrap: anywhere; }
.pictures { display: grid; grid-template-columns: 1fr 1fr; gap: .5rem; }
figure { margin: 0; }
img { display: block; width: 100%; height: auto; border-radius: .25rem; background: #000; }
figcaption { color: var(--soft); font-size: .8rem; margin-top: .15rem; }
.bars { width: 100%; border-collapse: collapse; margin-top: .6rem; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
.bars caption { text-align: left; color: var(--soft); font-size: .8rem; }
.bars th { font-weight: 400; text-align: left; width: 3rem; padding: 1px 0; }
.bars td:last-child { width: 2.75rem; text-align: right; }
.bar { padding: 0; } .bar i { display: block; height: .7rem; min-width: 1px; border-radius: 2px;
  background: var(--bar); }
.chosen th, .chosen td { font-weight: 600; } .chosen .bar i { background: var(--chosen); }
a { color: inherit; }
.card p { font-size: .9rem; }
.remarks { margin: .6rem 0 0; padding: .5rem .75rem .5rem 1.6rem; background: #fff6e6;
  border-left: 3px solid #e69f00; font-size: .9rem; }
.failures h2 { display: block; margin-bottom: .4rem; }
.failures table { border-collapse: collapse; background: var(--paper); width: 100%; font-size: .9rem; }
.failures th, .failures td { text-align: left; vertical-align: top; border: 1px solid var(--line);
  padding: .35rem .6rem; overflow-wrap: anywhere; }
footer { color: var(--soft); font-size: .85rem; overflow-wrap: anywhere; }
body:has(#show0:not(:checked)) .k0, body:has(#show1:not(:checked)) .k1, body:has(#show2:not(:checked)) .k2,
body:has(#show3:not(:checked)) .k3, body:has(#show4:not(:checked)) .k4,
  body:has(#remarks:checked) .card:not(.remarked) { display: none; }
@media (max-width: 30rem) { header, footer, .failures, .cards { padding-left: .75rem; padding-right: .75rem; } }
@media print { body { background: #fff; } .filters { display: none; } .card { break-inside: avoid;
  content-visibility: visible; } }
"""
