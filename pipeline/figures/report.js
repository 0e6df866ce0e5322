// What the page does by itself: search, where one is, larger figures, showers in space. It loads nothing.
"use strict";

// ------------------------------------------------------------------------------ search
const field = document.getElementById("search");
const found = document.getElementById("found");
const searched = [...document.querySelectorAll("main figure, main tbody tr, main pre, main [data-search]")];
const texts = new Map(searched.map((e) => [e, e.textContent.toLowerCase() + " " + (e.dataset.search || "")]));
const opened = new Set();

function search() {
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  let hits = 0;
  for (const [element, text] of texts) {
    const fits = words.every((word) => text.includes(word));
    element.hidden = !fits;
    hits += fits ? 1 : 0;
  }
  for (const box of document.querySelectorAll("main details, main .card, main section")) {
    const inside = searched.filter((e) => box.contains(e) && e !== box);
    if (inside.length) box.hidden = words.length > 0 && inside.every((e) => e.hidden);
  }
  for (const details of document.querySelectorAll("main details")) {
    if (words.length && !details.hidden && !details.open) { details.open = true; opened.add(details); }
    else if (!words.length && opened.delete(details)) details.open = false;
  }
  for (const link of document.querySelectorAll("nav a")) {
    const target = document.getElementById(link.hash.slice(1));
    link.hidden = Boolean(target && (target.hidden || target.closest("[hidden]")));
  }
  found.textContent = words.length ? `${hits} ${hits === 1 ? "match" : "matches"}` : "";
}

field.addEventListener("input", () => { search(); window.scrollTo(0, 0); });
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !/input|select|textarea/i.test(event.target.tagName)) { event.preventDefault(); field.focus(); }
  if (event.key === "Escape" && event.target === field) { field.value = ""; search(); }
});

// ------------------------------------------------------------------------------ where one is
const links = new Map([...document.querySelectorAll("nav > ul > li > a")].map((a) => [a.hash.slice(1), a]));
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    for (const link of links.values()) { link.classList.remove("here"); link.removeAttribute("aria-current"); }
    const link = links.get(entry.target.id);
    if (link) { link.classList.add("here"); link.setAttribute("aria-current", "true"); }
  }
}, { rootMargin: "-10% 0px -80% 0px" });
document.querySelectorAll("main section[id]").forEach((section) => seen.observe(section));

// ------------------------------------------------------------------------------ larger figures
const dialog = document.querySelector("dialog");
for (const button of document.querySelectorAll("button.zoom")) {
  button.addEventListener("click", () => {
    const image = button.querySelector("img");
    dialog.querySelector("img").src = image.src;
    dialog.querySelector("img").alt = image.alt;
    dialog.querySelector("strong").textContent = button.dataset.title;
    dialog.showModal();
  });
}
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

// ------------------------------------------------------------------------------ showers in space
// Cells are drawn as the wedges that they are: faces turned to the reader, far cells first (painter's algorithm).
// Axes: z along the beam, x and y across it, mm; a mild perspective.
function showerDisplay(data) {
  const start = { yaw: -0.55, pitch: 0.32, zoom: 1 };
  const view = { ...start };
  const pick = (id) => document.getElementById(id);
  const controls = { sample: pick("sample"), shower: pick("shower"), threshold: pick("threshold") };
  const panels = [...document.querySelectorAll("canvas")].map((canvas) => ({ canvas, text: pick(canvas.id + "-text") }));
  const [nR, nPhi, nZ] = data.cells;
  const size = { r: data.r_mm / nR, phi: 2 * Math.PI / nPhi, z: data.z_mm / nZ };
  const logs = [Math.log10(data.range_mev[0]), Math.log10(data.range_mev[1])];
  const unit = 1 / Math.hypot(data.r_mm, data.z_mm / 2);

  const place = (r, phi, z) => {
    const x = r * Math.cos(phi), y = r * Math.sin(phi), along = z - data.z_mm / 2;
    const near = -along * Math.sin(view.yaw) + x * Math.cos(view.yaw);
    return [
      along * Math.cos(view.yaw) + x * Math.sin(view.yaw),
      y * Math.cos(view.pitch) - near * Math.sin(view.pitch),
      y * Math.sin(view.pitch) + near * Math.cos(view.pitch),
    ];
  };

  function screen(canvas) {
    const scale = 0.52 * Math.min(canvas.width / 1.12, canvas.height * 1.2) * unit * view.zoom;
    return ([right, up, near]) => {
      const depth = 1 / (1 - 0.22 * near * unit);
      return [canvas.width / 2 + scale * right * depth, canvas.height / 2 - scale * up * depth];
    };
  }

  function trace(pen, points) {
    pen.beginPath();
    points.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  }

  function outline(pen, at, ratio) {
    pen.lineWidth = ratio;
    pen.strokeStyle = "#c6cbd5";
    for (const z of [0, 0.5, 1]) {
      trace(pen, Array.from({ length: 73 }, (_, i) => at(place(data.r_mm, i * Math.PI / 36, z * data.z_mm))));
      pen.stroke();
    }
    for (let i = 0; i < 12; i++) {
      trace(pen, [0, 1].map((z) => at(place(data.r_mm, i * Math.PI / 6, z * data.z_mm))));
      pen.stroke();
    }
    const beam = [-0.22, 0].map((z) => at(place(0, 0, z * data.z_mm)));
    const [dx, dy] = [beam[1][0] - beam[0][0], beam[1][1] - beam[0][1]];
    const length = Math.hypot(dx, dy) || 1, tip = 7 * ratio;
    pen.strokeStyle = pen.fillStyle = "#565c68";
    pen.lineWidth = 1.6 * ratio;
    trace(pen, beam);
    pen.stroke();
    trace(pen, [[0, 0], [-1, 0.45], [-1, -0.45]].map(([a, b]) => [
      beam[1][0] + tip * (a * dx - b * dy) / length, beam[1][1] + tip * (a * dy + b * dx) / length]));
    pen.fill();
    pen.font = `${12 * ratio}px system-ui, sans-serif`;
    pen.textAlign = "center";
    pen.fillText("beam", beam[0][0], beam[0][1] - 7 * ratio);
    pen.textAlign = "left";
    pen.fillText(`${data.z_mm.toFixed(0)} mm deep, radius ${data.r_mm.toFixed(0)} mm`, 10 * ratio, pen.canvas.height - 10 * ratio);
  }

  function colour(energy) {
    const t = Math.min(Math.max((Math.log10(energy) - logs[0]) / (logs[1] - logs[0]), 0), 1);
    return { rgb: data.colours[Math.round(t * (data.colours.length - 1))], alpha: 0.3 + 0.7 * t };
  }

  function wedge(index) {
    const z = index % nZ, phi = Math.floor(index / nZ) % nPhi, r = Math.floor(index / (nZ * nPhi));
    const low = [r * size.r, phi * size.phi - Math.PI, z * size.z], gap = 0.05;
    const corner = (i, j, k) => place(
      low[0] + (i ? 1 - gap : gap) * size.r, low[1] + (j ? 1 - gap : gap) * size.phi, low[2] + (k ? 1 - gap : gap) * size.z);
    const middle = place(low[0] + size.r / 2, low[1] + size.phi / 2, low[2] + size.z / 2);
    return { corners: [0, 1, 2, 3, 4, 5, 6, 7].map((c) => corner(c & 4, c & 2, c & 1)), middle };
  }

  // corners are numbered r phi z in binary; a face is shown when its outward normal points to the reader
  const faces = [
    [[4, 6, 7, 5], 1.0], [[0, 1, 3, 2], 0.8], [[1, 5, 7, 3], 0.86], [[0, 2, 6, 4], 0.86], [[2, 3, 7, 6], 0.93], [[0, 4, 5, 1], 0.93],
  ];

  function towardsReader(face, cell) {
    const [a, b, c] = face.map((i) => cell.corners[i]);
    const [u, v] = [b, c].map((p) => p.map((x, i) => x - a[i]));
    const normal = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
    const outward = normal.reduce((sum, x, i) => sum + x * (a[i] - cell.middle[i]), 0);
    return normal[2] * outward > 0;
  }

  function cells(pen, at, shower, threshold) {
    const chosen = [];
    let energy = 0;
    shower.cell.forEach((index, i) => {
      if (shower.mev[i] >= threshold) { chosen.push({ mev: shower.mev[i], ...wedge(index) }); energy += shower.mev[i]; }
    });
    chosen.sort((a, b) => a.middle[2] - b.middle[2]);
    for (const cell of chosen) {
      const { rgb, alpha } = colour(cell.mev);
      const flat = cell.corners.map(at);
      for (const [face, light] of faces) {
        if (!towardsReader(face, cell)) continue;
        trace(pen, face.map((c) => flat[c]));
        pen.closePath();
        pen.fillStyle = `rgba(${rgb.map((c) => Math.round(c * light)).join(",")},${alpha})`;
        pen.fill();
      }
    }
    return { count: chosen.length, energy };
  }

  function draw() {
    const sample = data.samples[Number(controls.sample.value)];
    const row = Number(controls.shower.value);
    const threshold = 10 ** Number(controls.threshold.value);
    pick("threshold-text").textContent = `${threshold.toPrecision(2)} MeV`;
    [data.samples[0], sample].forEach((side, i) => {
      const { canvas, text } = panels[i], shower = side.showers[row], ratio = window.devicePixelRatio || 1;
      canvas.width = Math.round(canvas.clientWidth * ratio);
      canvas.height = Math.round(canvas.clientHeight * ratio);
      const pen = canvas.getContext("2d"), at = screen(canvas);
      outline(pen, at, ratio);
      const seen = cells(pen, at, shower, threshold);
      const cut = shower.of > shower.cell.length ? ` (the ${shower.cell.length} of most energy are kept)` : "";
      text.textContent = `${shower.gev.toPrecision(3)} GeV: ${seen.count} of ${shower.of} cells${cut}, ` +
        `${seen.energy.toFixed(1)} of ${shower.total.toFixed(1)} MeV visible`;
      canvas.setAttribute("aria-label", `${side.name} shower in space, ${text.textContent}. Arrow keys turn it.`);
    });
    pick("second-name").textContent = sample.name;
  }

  let waiting = false;
  const redraw = () => {
    if (!waiting) { waiting = true; requestAnimationFrame(() => { waiting = false; draw(); }); }
  };

  data.samples.forEach((sample, i) => controls.sample.add(new Option(sample.name, i)));
  controls.sample.value = String(Math.min(1, data.samples.length - 1));
  data.samples[0].showers.forEach((shower, i) => controls.shower.add(new Option(`${shower.gev.toPrecision(3)} GeV`, i)));
  controls.shower.value = String(data.samples[0].showers.length - 1);
  Object.assign(controls.threshold, { min: logs[0], max: logs[1], step: (logs[1] - logs[0]) / 200, value: logs[0] });
  Object.values(controls).forEach((control) => control.addEventListener("input", redraw));
  pick("reset").addEventListener("click", () => {
    Object.assign(view, start);
    controls.threshold.value = logs[0];
    redraw();
  });

  pick("colours").style.background = `linear-gradient(to right, ${data.colours.map((c) => `rgb(${c.join(",")})`).join(",")})`;
  for (let decade = Math.ceil(logs[0]); decade <= Math.floor(logs[1]); decade++) {
    const tick = document.createElement("span");
    tick.style.left = `${Math.min(100 * (decade - logs[0]) / (logs[1] - logs[0]), 97)}%`;
    tick.textContent = `${10 ** decade} MeV`;
    pick("ticks").append(tick);
  }

  const turn = (yaw, pitch) => {
    view.yaw += yaw;
    view.pitch = Math.min(Math.max(view.pitch + pitch, -Math.PI / 2), Math.PI / 2);
    redraw();
  };
  const zoom = (factor) => { view.zoom = Math.min(Math.max(view.zoom * factor, 0.5), 6); redraw(); };
  const keys = {
    ArrowLeft: () => turn(-0.1, 0), ArrowRight: () => turn(0.1, 0), ArrowUp: () => turn(0, 0.1), ArrowDown: () => turn(0, -0.1),
    "+": () => zoom(1.2), "=": () => zoom(1.2), "-": () => zoom(1 / 1.2),
  };
  for (const { canvas } of panels) {
    canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons) turn(0.009 * event.movementX, 0.009 * event.movementY);
    });
    canvas.addEventListener("keydown", (event) => {
      if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
    });
    canvas.addEventListener("wheel", (event) => {
      if (event.ctrlKey) { event.preventDefault(); zoom(event.deltaY < 0 ? 1.1 : 1 / 1.1); }
    }, { passive: false });
    new ResizeObserver(redraw).observe(canvas);
  }
  draw();
}

const record = document.getElementById("showers-data");
if (record) showerDisplay(JSON.parse(record.textContent));
