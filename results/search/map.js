'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const $ = id => document.getElementById(id);
const canvas = $('map'), pen = canvas.getContext('2d'), stage = $('stage'), tip = $('tip');
const count = data.x.length, firstQuery = count - data.queries, labelled = data.classes.length > 0;
const isQuery = i => i >= firstQuery;
const isWrong = (i, other) => data.labels[i] >= 0 && data.labels[other] !== data.labels[i];
const failed = data.x.map((_, i) => data.near[i].length > 0 && isWrong(i, data.near[i][0]));
const picked = new Set();                       // classes that are shown alone; none: all are shown
const images = [];                              // of the marks, made when they are first drawn
let view = {x: 0, y: 0, zoom: 1}, width = 0, height = 0, hovered = -1, chosen = -1, wanted = false;

// Where things are -----------------------------------------------------------------------------------------------------

const middle = {x: Math.max(...data.x) / 2 || .5, y: Math.max(...data.y) / 2 || .5};
const scale = () => 0.44 * Math.min(width / middle.x, height / middle.y) * view.zoom;
const placeX = i => width / 2 + (data.x[i] - middle.x - view.x) * scale();
const placeY = i => height / 2 - (data.y[i] - middle.y - view.y) * scale();
const shown = i => (!picked.size || picked.has(data.labels[i]) || isQuery(i)) && (!only('only-wrong') || failed[i]);
const only = id => $(id) !== null && $(id).checked;
const radius = () => Math.min(9, Math.max(3, 60 / Math.sqrt(count)) * view.zoom ** 0.3);
const side = () => Math.min(72, Math.max(16, 240 / Math.sqrt(count)) * view.zoom ** 0.7);

function at(x, y) {
  let best = -1, least = (only('pictures') ? side() / 2 : Math.max(radius(), 8)) + 4;
  for (let i = 0; i < count; i++) {
    const far = Math.max(Math.abs(placeX(i) - x), Math.abs(placeY(i) - y));
    if (far <= least && shown(i)) { best = i; least = far; }
  }
  return best;
}

// Drawing --------------------------------------------------------------------------------------------------------------

const colour = label => label < 0 ? data.colours[0] : data.colours[label % data.colours.length];
const shape = label => label < 0 ? 'circle' : data.shapes[label % data.shapes.length];
let theme = {};                                 // the colours of this frame: asking for one is slow
const ink = name => theme[name] ??= getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function trace(ctx, kind, x, y, r) {
  ctx.beginPath();
  const polygon = points => { points.forEach(([a, b]) => ctx.lineTo(x + a * r, y + b * r)); ctx.closePath(); };
  if (kind === 'circle') ctx.arc(x, y, r, 0, 7);
  else if (kind === 'square') ctx.rect(x - r * .9, y - r * .9, r * 1.8, r * 1.8);
  else if (kind === 'triangle') polygon([[0, -1.15], [1.1, .85], [-1.1, .85]]);
  else if (kind === 'diamond') polygon([[0, -1.25], [1.25, 0], [0, 1.25], [-1.25, 0]]);
  else if (kind === 'cross') polygon([[-.4, -1.1], [.4, -1.1], [.4, -.4], [1.1, -.4], [1.1, .4], [.4, .4], [.4, 1.1],
    [-.4, 1.1], [-.4, .4], [-1.1, .4], [-1.1, -.4], [-.4, -.4]]);
  else polygon([...Array(10).keys()].map(k => [(k % 2 ? .7 : 1.7) * Math.sin(k * Math.PI / 5),
    -(k % 2 ? .7 : 1.7) * Math.cos(k * Math.PI / 5)]));
}

function image(i) {
  if (!images[i]) { images[i] = new Image(); images[i].onload = draw; images[i].src = data.pictures[i]; }
  return images[i];
}

function mark(i, near) {
  const x = placeX(i), y = placeY(i), r = radius() * (i === chosen || i === hovered ? 1.5 : near ? 1.2 : 1);
  if (x < -80 || y < -80 || x > width + 80 || y > height + 80) return;
  if (only('pictures')) {
    const s = side() * (i === chosen || i === hovered ? 1.4 : 1), im = image(i);
    pen.lineWidth = 2.5;
    pen.strokeStyle = isQuery(i) ? ink('ink') : colour(data.labels[i]);
    pen.strokeRect(x - s / 2 - 1, y - s / 2 - 1, s + 2, s + 2);
    if (im.complete && im.naturalWidth) {
      const cut = Math.min(im.naturalWidth, im.naturalHeight);
      pen.drawImage(im, (im.naturalWidth - cut) / 2, (im.naturalHeight - cut) / 2, cut, cut, x - s / 2, y - s / 2, s, s);
    }
    return;
  }
  trace(pen, isQuery(i) ? 'star' : shape(data.labels[i]), x, y, r);
  pen.fillStyle = isQuery(i) ? ink('ink') : colour(data.labels[i]);
  pen.fill();
  pen.lineWidth = 1.25;
  pen.strokeStyle = ink('wash');
  pen.stroke();
}

function draw() {
  if (wanted) return;
  wanted = true;
  requestAnimationFrame(() => {
    wanted = false;
    theme = {};
    pen.clearRect(0, 0, width, height);
    const near = new Set(chosen < 0 ? [] : data.near[chosen]), top = new Set([...near, chosen, hovered]);
    for (let i = 0; i < count; i++) {
      if (top.has(i)) continue;
      pen.globalAlpha = shown(i) ? (chosen < 0 ? 1 : .45) : .08;
      mark(i);
    }
    pen.globalAlpha = 1;
    for (const i of near) {
      const wrong = isWrong(chosen, i);
      pen.beginPath(); pen.moveTo(placeX(chosen), placeY(chosen)); pen.lineTo(placeX(i), placeY(i));
      pen.setLineDash(wrong ? [5, 4] : []);
      pen.lineWidth = 1.75;
      pen.strokeStyle = ink(labelled && data.labels[chosen] >= 0 ? (wrong ? 'wrong' : 'right') : 'accent');
      pen.stroke();
    }
    pen.setLineDash([]);
    near.forEach(i => mark(i, true));
    for (const i of [chosen, hovered]) {
      if (i < 0) continue;
      mark(i);
      pen.lineWidth = 2;
      pen.strokeStyle = ink('ink');
      pen.beginPath();
      const r = only('pictures') ? side() * .7 + 6 : radius() * 1.5 + 4;
      if (only('pictures')) pen.rect(placeX(i) - r, placeY(i) - r, 2 * r, 2 * r);
      else pen.arc(placeX(i), placeY(i), r, 0, 7);
      pen.stroke();
    }
  });
}

function resize() {
  const ratio = devicePixelRatio || 1;
  [width, height] = [stage.clientWidth, stage.clientHeight];
  [canvas.width, canvas.height] = [width * ratio, height * ratio];
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  draw();
}

// What is said of a picture ---------------------------------------------------------------------------------------------

function element(tag, css, text) {
  const made = document.createElement(tag);
  if (css) made.className = css;
  if (text !== undefined) made.textContent = text;
  return made;
}

function picture(i) {
  const made = element('img');
  [made.src, made.alt] = [data.pictures[i], data.names[i]];
  return made;
}

/** A text that may be broken after underscores. */
function breakable(tag, css, text) {
  const made = element(tag, css);
  text.split('_').forEach((part, k) => { if (k) made.append('_', element('wbr')); made.append(part); });
  return made;
}

const className = i => data.labels[i] < 0 ? '' : data.classes[data.labels[i]];
const title = i => (isQuery(i) ? 'Query' : '') + (isQuery(i) && className(i) ? ': ' : '') + className(i);

function hover(i, x, y) {
  canvas.classList.toggle('over', i >= 0);
  if (i !== hovered) { hovered = i; draw(); }
  tip.hidden = i < 0;
  if (i < 0) return;
  tip.firstElementChild.src = data.pictures[i];
  tip.lastElementChild.replaceChildren(breakable('b', '', title(i)), breakable('div', 'soft', data.names[i]));
  const left = x + 18 + tip.offsetWidth > width ? x - 18 - tip.offsetWidth : x + 18;
  const above = Math.min(Math.max(y - tip.offsetHeight / 2, 6), height - tip.offsetHeight - 6);
  tip.style.transform = `translate(${Math.max(4, left)}px, ${above}px)`;
}

function choose(i) {
  chosen = i;
  draw();
  const panel = $('chosen');
  if (i < 0) return panel.replaceChildren(element('p', 'soft', 'Click a mark to see its nearest neighbours.'));
  const known = data.labels[i] >= 0, wrong = data.near[i].filter(other => isWrong(i, other)).length;
  const head = element('div', 'head'), words = element('div');
  words.append(breakable('h2', '', title(i)), breakable('div', 'soft', data.names[i]));
  if (known) words.append(element('div', '', `${wrong} of ${data.near[i].length} neighbours are of another class`));
  head.append(picture(i), words);
  const list = element('ol', 'tiles');
  data.near[i].forEach((other, rank) => {
    const off = isWrong(i, other), item = element('li');
    const tile = element('button', 'tile' + (known ? off ? ' wrong' : ' right' : ''));
    tile.type = 'button';
    tile.title = data.names[other];
    tile.append(picture(other), element('b', '', known ? off ? '✗ ' : '✓ ' : `${rank + 1} `),
      data.values[i][rank].toFixed(3), breakable('span', 'class', className(other) || data.names[other]));
    if (known) tile.setAttribute('aria-label', `${rank + 1}: ${className(other)}, ${off ? 'another' : 'the same'} class`);
    tile.addEventListener('click', () => choose(other));
    item.append(tile);
    list.append(item);
  });
  panel.replaceChildren(head, list);
}

// Moving ---------------------------------------------------------------------------------------------------------------

function zoom(factor, x = width / 2, y = height / 2) {
  const before = scale(), to = Math.min(60, Math.max(.5, view.zoom * factor));
  view.zoom = to;
  const change = 1 / before - 1 / scale();
  view.x += (x - width / 2) * change;
  view.y -= (y - height / 2) * change;
  draw();
}

function move(dx, dy) {
  view.x -= dx / scale();
  view.y += dy / scale();
  draw();
}

function showAll() { view = {x: 0, y: 0, zoom: 1}; draw(); }

function nextFailed() {
  for (let step = 1; step <= count; step++) {
    const i = (Math.max(chosen, -1) + step) % count;
    if (failed[i] && shown(i)) return choose(i);
  }
}

const fingers = new Map();
let travelled = 0;
const here = event => [event.offsetX, event.offsetY];
canvas.addEventListener('pointerdown', event => {
  canvas.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, here(event));
  if (fingers.size === 1) travelled = 0;
});
canvas.addEventListener('pointermove', event => {
  const [x, y] = here(event), from = fingers.get(event.pointerId);
  if (!from) return hover(at(x, y), x, y);
  const other = [...fingers].find(([id]) => id !== event.pointerId);
  travelled += Math.hypot(x - from[0], y - from[1]);
  if (other) {
    const [ox, oy] = other[1], before = Math.hypot(from[0] - ox, from[1] - oy);
    if (before > 0) zoom(Math.hypot(x - ox, y - oy) / before, ox, oy);
    travelled = Infinity;
  } else if (travelled > 4) {
    canvas.classList.add('drag');
    hover(-1);
    move(x - from[0], y - from[1]);
  }
  fingers.set(event.pointerId, [x, y]);
});
canvas.addEventListener('pointerup', event => {
  if (fingers.has(event.pointerId) && fingers.size === 1 && travelled <= 4) choose(at(...here(event)));
});
for (const name of ['pointerup', 'pointercancel']) {
  canvas.addEventListener(name, event => { fingers.delete(event.pointerId); canvas.classList.remove('drag'); });
}
canvas.addEventListener('pointerleave', () => hover(-1));
canvas.addEventListener('wheel', event => {
  event.preventDefault();
  zoom(Math.exp(-event.deltaY * (event.deltaMode ? .05 : .0015)), event.offsetX, event.offsetY);
}, {passive: false});
canvas.addEventListener('keydown', event => {
  const step = {ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60]}[event.key];
  const others = {'+': () => zoom(1.4), '=': () => zoom(1.4), '-': () => zoom(1 / 1.4), 0: showAll, n: nextFailed,
    Escape: () => choose(-1)};
  if (event.ctrlKey || event.metaKey || event.altKey || !(step || others[event.key])) return;
  event.preventDefault();
  if (step) move(...step); else others[event.key]();
});
$('in').addEventListener('click', () => zoom(1.6));
$('out').addEventListener('click', () => zoom(1 / 1.6));
$('all').addEventListener('click', showAll);
$('pictures').addEventListener('change', draw);

// Classes --------------------------------------------------------------------------------------------------------------

if (labelled) {
  $('only-wrong').addEventListener('change', draw);
  $('next').addEventListener('click', nextFailed);
  const buttons = data.classes.map((name, label) => {
    const members = data.labels.map((l, i) => [l, i]).filter(([l, i]) => l === label && !isQuery(i));
    const button = element('button'), swatch = element('canvas'), ctx = swatch.getContext('2d');
    [swatch.width, swatch.height, button.type] = [32, 32, 'button'];
    trace(ctx, shape(label), 16, 16, 11);
    ctx.fillStyle = colour(label);
    ctx.fill();
    button.append(swatch, element('span', '', name),
      element('span', 'count', `${members.length} (${members.filter(([, i]) => failed[i]).length})`));
    button.setAttribute('aria-pressed', false);
    button.addEventListener('click', () => {
      if (!picked.delete(label)) picked.add(label);
      button.setAttribute('aria-pressed', picked.has(label));
      $('none').hidden = !picked.size;
      draw();
    });
    const item = element('li');
    item.append(button);
    $('legend').append(item);
    return button;
  });
  $('none').addEventListener('click', () => {
    picked.clear();
    buttons.forEach(button => button.setAttribute('aria-pressed', false));
    $('none').hidden = true;
    draw();
  });
  $('words').addEventListener('input', event => {
    const words = event.target.value.trim().toLowerCase();
    buttons.forEach((button, label) => {
      button.parentElement.hidden = !data.classes[label].toLowerCase().includes(words);
    });
  });
}

matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
new ResizeObserver(resize).observe(stage);
resize();
