// The explorer page: two score maps of one region and task, and the measured effects of an element,
// from the recorded tables. window.TISM_EXPLORER is what page_data and element_data of
// tism/study/explorer.py return, but for the maps of a region: its own script sets `tasks` and
// `measured` of the region when it is first shown.
(() => {
  "use strict";

  const BASES = "ACGT";
  const FEWEST = 16, TOP = 10; // bases in view; rows of a table
  const LEFT = 46, RIGHT = 6; // margins of the plotting area, in px
  const GLYPHS = { // in a unit square, y downwards
    A: "M0 1L.38 0H.62L1 1H.77L.69 .78H.31L.23 1ZM.37 .61H.63L.5 .24Z",
    C: "M1 .68C.94 .9 .76 1 .53 1C.2 1 0 .8 0 .5C0 .2 .2 0 .53 0C.76 0 .94 .1 1 .32L.75 .36C.71 .24 .64 .18 .53 .18C.36 .18 .25 .29 .25 .5C.25 .71 .36 .82 .53 .82C.64 .82 .71 .76 .75 .64Z",
    G: "M1 .46V.86C.88 .95 .72 1 .53 1C.2 1 0 .8 0 .5C0 .2 .2 0 .53 0C.76 0 .93 .09 .99 .29L.75 .33C.71 .23 .64 .18 .53 .18C.36 .18 .25 .29 .25 .5C.25 .71 .36 .82 .55 .82C.64 .82 .71 .8 .77 .76V.62H.55V.46Z",
    T: "M0 0H1V.19H.62V1H.38V.19H0Z",
  };

  const root = document.getElementById("ex-root");
  const data = window.TISM_EXPLORER;
  const folder = document.currentScript.src.replace(/[^/]*$/, "");
  if (!root) return;
  root.hidden = false;
  const missing = (file) => {
    root.textContent = `The recorded maps could not be loaded: ${file} is missing.`;
  };
  if (!data) {
    missing("explorer_data.js");
    return;
  }
  const element = (name) => document.getElementById(`ex-${name}`);
  const regions = data.datasets.flatMap((set) => set.regions.map((region) =>
    Object.assign(region, { set: set.name, id: `${set.name} ${region.name}` })));
  const state = {};
  let shown; // what `describe` made of the state

  const minus = (text) => String(text).replace("-", "\u2212");
  /** A number with this many decimals; adding 0 makes 0 of -0. */
  const decimal = (x, digits) => minus((Number(x.toFixed(digits)) + 0).toFixed(digits));
  const round = (x) => minus(Number(x.toPrecision(3)));
  const count = (n) => n.toLocaleString("en-GB");
  const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

  /** Adds the maps of a region to it, by a script: a page opened from disk cannot fetch. */
  function load(region, then) {
    const script = document.createElement("script");
    const onerror = () => missing(region.script);
    Object.assign(script, { src: folder + region.script, async: false, onload: then, onerror });
    document.head.append(script);
  }

  /** {values: of the substitutions, rows: by base and position, mean: minus the mean of a position};
   *  NaN where a substitution was not measured. */
  function restore([largest, thousandths], sequence) {
    const values = thousandths.map((k) => (k === null ? NaN : (k * largest) / 1000));
    let next = 0;
    const rows = Array.from(BASES, (base) =>
      Array.from(sequence, (reference) => (reference === base ? 0 : values[next++])));
    const mean = Array.from(sequence, (base, l) => {
      const known = rows.map((row) => row[l]).filter((x, b) => BASES[b] !== base && !Number.isNaN(x));
      return BASES.includes(base) && known.length ? -known.reduce((sum, x) => sum + x) / known.length : 0;
    });
    return { values, rows, mean, ...reach(values, mean) };
  }

  /** Scales of a heat map and of a logo: the largest effect, and a little more than all heights. */
  function reach(values, heights) {
    const low = Math.min(0, ...heights), high = Math.max(0, ...heights);
    const margin = 0.04 * (high - low) || 1;
    const largest = Math.max(...values.filter((x) => !Number.isNaN(x)).map(Math.abs)) || 1;
    return { low: low - margin, high: high + margin, largest };
  }

  /** Pearson correlation over what both have, NaN where one is constant. */
  function pearson(first, second) {
    const both = first.map((_, k) => k).filter((k) => !Number.isNaN(first[k] + second[k]));
    const [a, b] = [first, second].map((values) => both.map((k) => values[k]));
    const dot = (x, y) => x.reduce((sum, value, k) => sum + value * y[k], 0);
    const centred = (x) => {
      const mean = x.reduce((sum, value) => sum + value, 0) / x.length;
      return x.map((value) => value - mean);
    };
    const [x, y] = [a, b].map(centred);
    const size = Math.sqrt(dot(x, x) * dot(y, y));
    return size ? dot(x, y) / size : NaN;
  }

  /** The substitutions with the largest effects: [{position, base, effect}]. */
  function strongest(map, sequence) {
    const all = [];
    map.rows.forEach((row, b) => row.forEach((effect, position) => {
      if (sequence[position] !== BASES[b] && !Number.isNaN(effect)) all.push({ position, b, effect });
    }));
    return all.sort((x, y) => Math.abs(y.effect) - Math.abs(x.effect)).slice(0, TOP);
  }

  /** Start of the window of this many bases in which both maps are largest. */
  function strongestStart(bases) {
    const size = shown.first.mean.map((x, l) => Math.abs(x) + Math.abs(shown.second.mean[l]));
    let sum = 0, best = 0, start = 0;
    size.forEach((x, l) => {
      sum += x - (l >= bases ? size[l - bases] : 0);
      if (l >= bases - 1 && sum > best * (1 + 1e-9)) [best, start] = [sum, l - bases + 1];
    });
    return start;
  }

  const tasksOf = (region) => Object.keys(region.tasks);
  const methodsOf = (region, task) =>
    data.methods.filter((method) => method in region.tasks[task].maps);
  const predicted = (region, task) => region.tasks[task].predicted;
  const pick = (wanted, among, otherwise) => (among.includes(wanted) ? wanted : otherwise);
  const length = () => state.region.sequence.length;
  const width = () => Math.max(280, element("figure").clientWidth);
  const plot = () => width() - LEFT - RIGHT;
  const cell = () => plot() / state.bases;
  const fitting = () => clamp(Math.floor(plot() / 11), FEWEST, length());

  /** Takes what is wanted where it exists, else keeps what is; `from` null is the strongest stretch. */
  function change(wanted, then = () => {}) {
    const old = { ...state };
    const typical = regions[data.datasets[0].regions.length >> 1]; // they go from worst to best
    const region = regions.find((r) => r.id === wanted.region) || old.region || typical;
    if (!region.tasks) return load(region, () => change(wanted, then));
    const tasks = tasksOf(region);
    const highest = tasks.reduce((a, b) => (predicted(region, b) > predicted(region, a) ? b : a));
    const task = pick(wanted.task, tasks, pick(old.task, tasks, highest));
    const methods = methodsOf(region, task);
    const first = pick(wanted.first, methods, pick(old.first, methods, methods[0]));
    const second = pick(wanted.second, methods, pick(old.second, methods, methods[1] ?? first));
    Object.assign(state, { region, task, first, second });
    if (["region", "task", "first", "second"].some((name) => state[name] !== old[name])) describe();
    const bases = "bases" in wanted ? wanted.bases : old.bases || fitting();
    state.bases = clamp(Math.round(bases) || fitting(), Math.min(FEWEST, length()), length());
    let from = "from" in wanted ? wanted.from : region === old.region ? old.from : null;
    if (from === null || !Number.isFinite(from)) from = strongestStart(state.bases);
    state.from = clamp(Math.round(from), 0, length() - state.bases);
    draw();
    then();
  }

  /** Computes what is shown of the chosen maps, and all that does not depend on the window. */
  function describe() {
    const { region, task, first, second } = state;
    const { maps, label } = region.tasks[task];
    const [a, b] = [first, second].map((name) => restore(maps[name], region.sequence));
    const difference = a.mean.map((x, l) => x - b.mean[l]);
    const scale = reach([...a.values, ...b.values], [...a.mean, ...b.mean, ...difference]);
    Object.assign(a, scale, { name: first });
    Object.assign(b, scale, { name: second });
    shown = { first: a, second: b, difference, label, r: pearson(a.values, b.values), measured: [] };
    if (region.measured) {
      shown.measured = [Object.assign(restore(region.measured, region.sequence), { name: "measured" })];
    }
    choices();
    element("figure").setAttribute("aria-label", `Maps of ${names()}`);
    element("readout").innerHTML = readout();
    const tables = [[a, b, ...shown.measured], [b, a, ...shown.measured]];
    for (const map of shown.measured) tables.unshift([map, a, b]);
    element("tables").innerHTML = tables.map(table).join("");
    element("caption").innerHTML = region.measured ? elementCaption() : caption();
  }

  function fromHash() {
    const wanted = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
    for (const name of ["from", "bases"]) {
      if (/^\d+$/.test(wanted[name])) wanted[name] = Number(wanted[name]);
      else delete wanted[name];
    }
    return wanted;
  }

  let waiting;
  function toHash() {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      const { region, task, first, second, from, bases } = state;
      const hash = new URLSearchParams({ region: region.id, task, first, second, from, bases });
      history.replaceState(null, "", `#${hash}`);
    }, 200);
  }

  const user = (wanted) => change(wanted, toHash);
  const step = (by) =>
    user({ region: regions.at((regions.indexOf(state.region) + by) % regions.length).id });
  function zoom(factor) {
    const bases = clamp(Math.round(state.bases * factor), FEWEST, length());
    user({ bases, from: state.from + (state.bases - bases) / 2 });
  }

  const tag = (name, attributes, content = "") => {
    const list = Object.entries(attributes).map(([key, value]) => ` ${key}="${value}"`).join("");
    return `<${name}${list}>${content}</${name}>`;
  };
  const escape = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
  const fixed = (x) => Number(x.toFixed(2));

  /** A round number of at most three quarters of x. */
  function tick(x) {
    const power = 10 ** Math.floor(Math.log10(x));
    return [5, 2, 1, 0.5].map((k) => k * power).find((k) => k <= 0.75 * x);
  }

  function frame(top, height, title) {
    return tag("text", { x: LEFT, y: top - 7, class: "ex-title" }, escape(title)) +
      tag("line", { x1: LEFT, x2: LEFT, y1: top, y2: top + height, class: "ex-axis" });
  }

  function logo(mean, title, top, height, { low, high }) {
    const y = (value) => top + (height * (high - value)) / (high - low);
    const step = tick(Math.max(high, -low));
    const ticks = [-step, 0, step].filter((v) => v > low && v < high);
    let out = frame(top, height, title);
    for (const value of ticks) {
      out += tag("text", { x: LEFT - 6, y: fixed(y(value) + 4), class: "ex-tick ex-end" }, round(value));
    }
    for (let k = 0; k < state.bases; k++) {
      const base = state.region.sequence[state.from + k], value = mean[state.from + k];
      const tall = Math.abs(y(value) - y(0));
      if (tall < 0.15 || !GLYPHS[base]) continue;
      const scale = `${fixed(cell() * 0.96)} ${fixed(Math.sign(value) * tall)}`;
      out += tag("path", { d: GLYPHS[base], class: `ex-${base}`,
        transform: `translate(${fixed(LEFT + k * cell())} ${fixed(y(value))}) scale(${scale})` });
    }
    return out + tag("line", { x1: LEFT, x2: width() - RIGHT, y1: fixed(y(0)), y2: fixed(y(0)), class: "ex-zero" });
  }

  function heat(map, title, top, row) {
    let out = frame(top, 4 * row, title);
    map.rows.forEach((values, b) => {
      out += tag("text", { x: LEFT - 6, y: top + (b + 0.5) * row + 4, class: "ex-tick ex-end" }, BASES[b]);
      for (let k = 0; k < state.bases; k++) {
        const l = state.from + k, x = fixed(LEFT + k * cell());
        if (state.region.sequence[l] === BASES[b]) {
          const r = fixed(Math.min(cell() / 5, 2));
          out += tag("circle", { cx: fixed(x + cell() / 2), cy: top + (b + 0.5) * row, r, class: "ex-dot" });
        } else if (values[l]) {
          out += tag("rect", { x, y: top + b * row, width: fixed(cell()), height: row,
            class: values[l] > 0 ? "ex-more" : "ex-less",
            "fill-opacity": Math.sqrt(Math.abs(values[l]) / map.largest).toFixed(3) });
        } else if (Number.isNaN(values[l])) {
          out += tag("rect", { x, y: top + b * row, width: fixed(cell()), height: row, class: "ex-none" });
        }
      }
    });
    return out;
  }

  /** The whole region: |mean effect| of the first method upwards, of the second downwards. */
  function strip(top, height) {
    const bp = plot() / length(), middle = top + height / 2;
    const all = [...shown.first.mean, ...shown.second.mean].map(Math.abs);
    const scale = height / 2 / (Math.max(...all) || 1);
    const bars = (mean, sign) => mean.map((value, l) => {
      const end = fixed(middle - sign * Math.abs(value) * scale);
      return `M${fixed(LEFT + (l + 0.5) * bp)} ${middle}V${end}`;
    }).join("");
    return tag("text", { x: LEFT, y: top - 7, class: "ex-title" },
      escape(`Whole region: ${state.first} up, ${state.second} down`)) +
      tag("rect", { x: LEFT, y: top, width: plot(), height, class: "ex-strip" }) +
      tag("path", { d: bars(shown.first.mean, 1), class: "ex-bar", "stroke-width": fixed(bp) }) +
      tag("path", { d: bars(shown.second.mean, -1), class: "ex-bar", "stroke-width": fixed(bp) }) +
      tag("rect", { x: fixed(LEFT + state.from * bp), y: top - 2, width: fixed(state.bases * bp),
        height: height + 4, rx: 3, class: "ex-brush" });
  }

  function positions(top) {
    const wanted = 70 / cell();
    const every = [1, 2, 5, 10, 20, 50, 100].find((k) => k >= wanted) || 200;
    let out = "";
    for (let l = Math.ceil(state.from / every) * every; l < state.from + state.bases; l += every) {
      const x = fixed(LEFT + (l - state.from + 0.5) * cell());
      out += tag("line", { x1: x, x2: x, y1: top, y2: top + 5, class: "ex-axis" });
      out += tag("text", { x, y: top + 17, class: "ex-tick ex-mid" }, l);
    }
    const middle = (LEFT + width() - RIGHT) / 2, { chrom, start, end, strand } = state.region;
    return out + tag("text", { x: middle, y: top + 34, class: "ex-tick ex-mid" },
      `position in the region (bp); 0 is ${chrom}:${count(strand === "-" ? end : start)}`);
  }

  const STRIP = { top: 20, height: 36 };
  function figure() {
    const { first, second } = state, tall = 92, row = 14;
    let top = STRIP.top + STRIP.height + 36;
    let out = strip(STRIP.top, STRIP.height);
    const maps = [...shown.measured, shown.first, shown.second];
    for (const [mean, title, scale] of [...maps.map((map) => [map.mean, `${map.name}, mean effect`, map]),
      [shown.difference, `${first} \u2212 ${second}`, shown.first]]) {
      out += logo(mean, title, top, tall, scale);
      top += tall + 32;
    }
    for (const map of maps) {
      out += heat(map, `${map.name}, every substitution`, top, row);
      top += 4 * row + 26;
    }
    out += positions(top - 22);
    const height = top + 16, wide = width();
    const against = withMeasured().map(({ name, r }) => `, ${correlation(r)} of ${name} with the measurement`);
    const summary = `${names()} of ${state.region.name}, ${state.task}: positions ` +
      `${state.from} to ${state.from + state.bases - 1}, r = ${correlation(shown.r)}${against.join("")}. The table below has the largest effects.`;
    return `<svg width="${wide}" height="${height}" viewBox="0 0 ${wide} ${height}" role="img" ` +
      `aria-label="${escape(summary)}">${out}</svg>`;
  }

  const correlation = (r) => (Number.isNaN(r) ? "undefined" : decimal(r, 2));
  const names = () => `${shown.measured.length ? "measured effects, " : ""}${state.first} and ${state.second}`;
  /** r of each method with the measured effects, if there are any: [{name, r}]. */
  const withMeasured = () => shown.measured.flatMap((measured) =>
    [shown.first, shown.second].map(({ name, values }) => ({ name, r: pearson(values, measured.values) })));
  const named = ({ position, b }) => `${position} ${state.region.sequence[position]}\u2192${BASES[b]}`;

  function readout() {
    const item = (name, value) => `<span><b>${value}</b> ${name}</span>`;
    const between = `<span class="ex-r"><b>r = <span id="ex-r" data-r="${shown.r}">${correlation(shown.r)}</span></b> ` +
      `${escape(state.first)} and ${escape(state.second)}, ${count(shown.first.values.length)} substitutions</span>`;
    if (state.region.measured) {
      return between + withMeasured().map(({ name, r }) =>
        item(`${escape(name)} and measured`, `r = <span data-measured="${r}">${correlation(r)}</span>`)).join("");
    }
    return between +
      item("predicted", decimal(predicted(state.region, state.task), 2)) +
      item(state.region.set === "simulated" ? "simulated" : "measured", decimal(shown.label, 2));
  }

  /** The largest effects of the first map, and what the others have there. */
  function table(maps) {
    const written = ({ rows, largest }, { b, position }) => {
      const digits = clamp(1 - Math.floor(Math.log10(largest)), 0, 12);
      return Number.isNaN(rows[b][position]) ? "none" : decimal(rows[b][position], digits);
    };
    const rows = strongest(maps[0], state.region.sequence).map((s, k) =>
      `<tr><td>${k + 1}</td><th scope="row">${named(s)}</th>` +
      `${maps.map((map) => `<td>${written(map, s)}</td>`).join("")}</tr>`);
    const heads = ["#", "substitution", ...maps.map(({ name }) => escape(name))];
    const title = maps[0] === shown.measured[0] ? "Largest measured effects" : `Largest effects by ${heads[2]}`;
    return `<table class="table"><caption>${title}</caption><thead><tr>` +
      `${heads.map((head) => `<th scope="col">${head}</th>`).join("")}</tr></thead><tbody>${rows.join("")}</tbody></table>`;
  }

  function elementCaption() {
    const { name, kind, cells, chrom, start, end, strand } = state.region;
    const [{ values }] = shown.measured;
    const known = values.filter((x) => !Number.isNaN(x)).length;
    return `${escape(name)}, ${kind === "enhancer" ? "an enhancer" : `a ${escape(kind)}`}, is ` +
      `${chrom}:${count(start)}\u2013${count(end)} (GRCh38) in the direction in which it was cloned, strand ${minus(strand)}. ` +
      `In ${escape(cells)} cells ${count(known)} of its ${count(values.length)} substitutions were measured with ` +
      "at least 10 barcodes; grey marks the others.";
  }

  function caption() {
    const { region, task } = state, n = regions.filter((r) => r.set === region.set).length;
    return `Region ${region.chrom}:${count(region.start)}\u2013${count(region.end)} of the ${region.set} set is number ` +
      `${count(region.rank)} of ${count(region.n_ranked)} scored test regions, from the lowest mean <i>r</i> of ISM and ` +
      `TISM over all tasks to the highest. The ${n} here stand at even steps of that order, worst and best included; the ` +
      `${tasksOf(region).length} tasks, ${escape(task)} among them, are chosen likewise.`;
  }

  const option = (value, text = value) => `<option value="${escape(value)}">${escape(text)}</option>`;

  function choices() {
    const { region, task, first, second } = state;
    const methods = methodsOf(region, task);
    element("region").value = region.id;
    root.querySelector("[for=ex-task]").textContent = region.measured ? "Network" : "Task";
    for (const [name, among, value] of [["task", tasksOf(region), task],
      ["first", methods, first], ["second", methods, second]]) {
      element(name).innerHTML = among.map((each) => option(each)).join("");
      element(name).value = value;
    }
  }

  function draw() {
    const { from, bases } = state;
    Object.assign(element("bases"), { min: Math.min(FEWEST, length()), max: length(), value: bases });
    Object.assign(element("from"), { max: length() - bases, value: from });
    element("figure").innerHTML = figure();
  }

  const ACTIONS = {
    previous: () => step(-1),
    next: () => step(1),
    strongest: () => user({ bases: fitting(), from: null }),
    whole: () => user({ bases: length(), from: 0 }),
  };
  const quarter = () => Math.max(1, Math.round(state.bases / 4));
  const KEYS = {
    ArrowLeft: () => user({ from: state.from - quarter() }),
    ArrowRight: () => user({ from: state.from + quarter() }),
    ArrowUp: ACTIONS.previous,
    ArrowDown: ACTIONS.next,
    "+": () => zoom(2 / 3),
    "=": () => zoom(2 / 3),
    "-": () => zoom(3 / 2),
    Home: () => user({ from: 0 }),
    End: () => user({ from: length() }),
  };

  function listen() {
    for (const name of ["region", "task", "first", "second"]) {
      element(name).addEventListener("change", (event) => user({ [name]: event.target.value }));
    }
    for (const name of ["from", "bases"]) {
      element(name).addEventListener("input", (event) => user({ [name]: Number(event.target.value) }));
    }
    root.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
    root.addEventListener("click", (event) => {
      const button = event.target.closest("[data-do]");
      if (button) ACTIONS[button.dataset.do]();
    });
    element("figure").addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
      event.preventDefault();
      event.stopPropagation();
      KEYS[event.key]();
    });
    window.addEventListener("hashchange", () => change(fromHash()));
    new ResizeObserver(() => {
      if (!shown || width() === drawn) return;
      drawn = width();
      draw();
    }).observe(element("figure"));
    dragging();
  }

  function dragging() {
    const box = element("figure");
    let grip = null;
    box.addEventListener("pointerdown", (event) => {
      const { left, top } = box.getBoundingClientRect();
      const inStrip = event.clientY - top <= STRIP.top + STRIP.height + 4;
      if (inStrip) {
        const at = ((event.clientX - left - LEFT) / plot()) * length();
        if (at < state.from || at > state.from + state.bases) user({ from: at - state.bases / 2 });
      }
      grip = { x: event.clientX, from: state.from, bp: inStrip ? length() / plot() : -1 / cell() };
      box.setPointerCapture(event.pointerId);
    });
    box.addEventListener("pointermove", (event) => {
      if (!grip) return;
      const from = Math.round(grip.from + (event.clientX - grip.x) * grip.bp);
      if (from !== state.from) user({ from });
    });
    box.addEventListener("lostpointercapture", () => { grip = null; });
  }

  element("region").innerHTML = data.datasets.map((set) => {
    const elements = set.regions.every((region) => region.kind);
    const list = regions.filter((region) => region.set === set.name).map((region) => {
      if (elements) return option(region.id, `${region.name} \u00b7 ${region.kind}, ${region.cells}`);
      const r = region.mean_r === null ? "none" : decimal(region.mean_r, 2);
      const rank = `${count(region.rank)} of ${count(region.n_ranked)}`;
      return option(region.id, `${region.name} \u00b7 mean r ${r}, ${rank}`);
    });
    const title = elements ? "elements measured by MPRA" : `${set.name} test regions`;
    return `<optgroup label="${escape(title)}">${list.join("")}</optgroup>`;
  }).join("");
  let drawn = width();
  change(fromHash());
  listen();
})();
