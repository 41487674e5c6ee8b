'use strict';
// Everything that comes from outside is put in as text, by textContent: nothing here makes HTML of it.
const $ = (selector) => document.querySelector(selector);
const token = $('meta[name=page-token]').content;
const SPANS = { minute: 'in the last minute', hour: 'in the last hour', start: 'since the start' };
const POINTS = 60, REQUESTS = 60, TEXT_MAX = 4096;
let plots = null;
let showing = null;
const table = { search: '', sort: 'url', page: 0 };

// Characters that would change how others are shown are seen as what they are.
const visible = (text) => String(text).slice(0, TEXT_MAX).replace(
  /[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\u{1bca0}-\u{1bca3}\u{1d173}-\u{1d17a}\u{e0000}-\u{e0fff}]|\r(?!\n)/gu,
  (c) => `\u27e8U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}\u27e9`);
// Figures as `stats/figures.rs` writes them: rounded down, as whole numbers are.
const count = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, ',');
const percent = (part, whole) => whole ? `${(Math.floor(part * 1000 / whole) / 10).toFixed(1)} %` : '-';
function bytes(n) {
  let unit = 0;
  for (; n >= 1024 && unit < 4; unit += 1) n /= 1024;
  return `${unit && n < 100 ? (Math.floor(n * 10) / 10).toFixed(1) : Math.floor(n)} ${['B', 'KiB', 'MiB', 'GiB', 'TiB'][unit]}`;
}
function threeDigits(thousandths) {
  const step = thousandths < 1e4 ? 10 : thousandths < 1e5 ? 100 : 1000;
  return Math.floor(thousandths / step) * step / 1000;
}
function time(micros) {
  if (micros === null) return '-';
  if (micros < 1e3) return `${micros} µs`;
  return micros < 1e6 ? `${threeDigits(micros)} ms` : `${threeDigits(Math.floor(micros / 1e3))} s`;
}
function span(seconds) {
  const far = Math.abs(seconds);
  const [unit, size] = far < 120 ? ['s', 1] : far < 7200 ? ['min', 60] : far < 172800 ? ['h', 3600] : ['d', 86400];
  return `${Math.floor(far / size)} ${unit}`;
}
function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = visible(text);
  if (className) made.className = className;
  return made;
}
function button(text, act, className) {
  const made = element('button', text, className);
  made.type = 'button';
  made.addEventListener('click', act);
  return made;
}

async function ask(path, query, method) {
  const text = query ? `${path}?${new URLSearchParams(query)}` : path;
  const answer = await fetch(text, { method: method || 'GET', headers: { 'X-Page-Token': token } });
  if (!answer.ok) throw new Error((await answer.text()).trim());
  return answer;
}
async function attempt(where, work) {
  try {
    where.textContent = visible(await work() || '');
  } catch (error) {
    where.textContent = visible(error.message);
  }
}

// The plots: values are [requests, hits, bytes, bytes from the cache, origin requests].
const FIGURES = {
  requests: { of: (v) => v[0], say: count },
  // Where nothing was asked for there is no ratio, and the plot goes on as it was.
  ratio: { of: (v) => v[0] ? v[1] / v[0] : null, top: 1, sum: (v) => percent(v[1], v[0]) },
  bytes: { of: (v) => v[2], say: bytes },
  cached: { of: (v) => v[3], say: bytes },
  saved: { of: (v) => Math.max(0, v[0] - v[4]), say: count },
};
function draw(cell) {
  const figure = FIGURES[cell.dataset.figure], { step, values } = plots[cell.dataset.span];
  const sum = values.reduce((all, value) => all.map((n, at) => n + value[at]), [0, 0, 0, 0, 0]);
  const said = figure.sum ? figure.sum(sum) : figure.say(figure.of(sum));
  cell.querySelector('b').textContent = said;
  let before = 0;
  const heights = values.map((value) => { before = figure.of(value) ?? before; return before; });
  if (heights.length === 1) heights.push(heights[0]);
  const most = Math.max(...heights), top = figure.top || most || 1;
  const across = 120 / Math.max(1, heights.length - 1);
  const points = heights.map((h, at) => `${(at * across).toFixed(1)},${(29 - 28 * h / top).toFixed(1)}`);
  const shape = (name, text) => {
    const made = document.createElementNS('http://www.w3.org/2000/svg', 'polyline');
    made.setAttribute('points', text);
    made.setAttribute('class', name);
    return made;
  };
  const svg = cell.querySelector('svg');
  svg.replaceChildren(shape('area', `0,30 ${points.join(' ')} 120,30`), shape('line', points.join(' ')));
  const title = cell.parentElement.querySelector('th').textContent;
  const peak = figure.sum ? '' : `, at most ${figure.say(most)} in ${span(step)}`;
  svg.setAttribute('aria-label', `${title} ${SPANS[cell.dataset.span]}: ${said}${peak}`);
}
const drawAll = () => document.querySelectorAll('[data-figure]').forEach(draw);
async function loadPlots() {
  plots = await (await ask('history')).json();
  drawAll();
}

function takeEvent(event) {
  $('#stream').textContent = 'Live: figures move once a second.';
  if (plots) {
    // The last value of a plot is that of the step which has not ended.
    for (const [name, plot] of Object.entries(plots)) {
      const now = plot.values.at(-1);
      if (name === 'minute') {
        plot.values.splice(-1, 0, event.second);
        while (plot.values.length > POINTS + 1) plot.values.shift();
      } else {
        event.second.forEach((n, at) => { now[at] += n; });
      }
    }
    drawAll();
  }
  const origin = $('#origin');
  origin.textContent = visible(event.origin || 'answers, as far as is known');
  origin.classList.toggle('bad', event.origin !== '');
  $('#responses').textContent = count(event.responses);
  $('#bytes').textContent = bytes(event.bytes);
  event.latency.flat().forEach(([total, half, most], at) => {
    const cells = $('#latency tbody').rows[at].cells;
    [count(total), time(half), time(most)].forEach((text, cell) => { cells[cell + 1].textContent = text; });
  });
  for (const row of document.querySelectorAll('[data-detail]')) {
    const times = event.details[row.dataset.detail];
    if (times === undefined) continue;
    row.cells[1].textContent = count(times);
    row.hidden = false;
  }
  takeRequests(event.first, event.requests);
  // What did not fit into the event, or came before the stream was open.
  if (next < event.next) loadRequests().catch(() => {});
}
// Requests have numbers: each is shown once, whichever way it comes.
let next = Number($('#requests').dataset.next);
function takeRequests(first, requests) {
  if (first <= next) requests.slice(next - first).forEach(addRequest);
}
async function loadRequests() {
  const asked = next, answer = await (await ask('recent', { from: asked })).json(), { requests } = answer;
  if (answer.next < asked) next = 0; // Another process counts anew.
  if (requests.length) next = Math.max(next, requests[0].number);
  const micros = (seconds) => seconds === null ? null : Math.round(seconds * 1e6);
  takeRequests(requests[0]?.number, requests.map((r) => [r.at, r.method, r.target, r.status, r.bytes, r.outcome, micros(r.seconds)]));
}
const timeOfDay = (seconds) => new Date(seconds * 1e3).toISOString().slice(11, 19);
function addRequest([at, method, target, status, size, outcome, taken]) {
  next += 1;
  const row = element('tr'), body = $('#requests tbody');
  row.append(element('td', outcome, outcome === 'hit' ? 'hit' : ''), element('td', status, status >= 500 ? 'error' : ''),
    element('td', `${method} ${target}`), element('td', bytes(size), 'number'), element('td', time(taken), 'number'), element('td', timeOfDay(at), 'number'));
  body.prepend(row);
  while (body.rows.length > REQUESTS) body.lastElementChild.remove();
  $('#requests').hidden = false;
  $('#requests-note').hidden = true;
}

// What is stored.
const COLUMNS = [['url', 'URL'], ['status', 'Status'], ['bytes', 'Size'], ['hits', 'Hits'], ['age', 'Age'],
  ['fresh_for', 'Time left']];
function sortBy(name) {
  table.sort = table.sort === name ? `-${name}` : name;
  table.page = 0;
  attempt($('#said'), loadTable);
}
const tableButtons = () => [...document.querySelectorAll('#stored button')];
let tablesAsked = 0;
async function loadTable() {
  tablesAsked += 1;
  const asked = tablesAsked, found = await (await ask('table', table)).json();
  // What was asked for later is what is wanted.
  if (asked !== tablesAsked) return $('#said').textContent;
  table.page = found.page;
  const focused = tableButtons().indexOf(document.activeElement);
  $('#stored thead tr').replaceChildren(...COLUMNS.map(([name, title]) => {
    const head = element('th', undefined, name === 'url' ? '' : 'number');
    const way = table.sort.replace('-', '') !== name ? '' : table.sort === name ? ' \u2191' : ' \u2193';
    if (way) head.setAttribute('aria-sort', table.sort === name ? 'ascending' : 'descending');
    head.scope = 'col';
    head.append(button(title + way, () => sortBy(name), 'plain'));
    return head;
  }));
  $('#stored tbody').replaceChildren(...found.rows.map((row) => {
    const made = element('tr'), url = element('td');
    url.append(button(row.url, () => show(row), 'plain'));
    const left = row.fresh_for === null ? 'until cleared' : row.fresh_for > 0 ? span(row.fresh_for)
      : `stale for ${span(row.fresh_for)}`;
    made.append(url, ...[row.status, bytes(row.bytes), count(row.hits), span(row.age), left]
      .map((text) => element('td', text, 'number')));
    return made;
  }));
  // Heads and rows are made anew, and a keyboard stays where it was.
  if (focused >= 0) (tableButtons()[focused] || tableButtons().pop()).focus();
  $('#stored').hidden = false;
  $('#pages').hidden = found.pages < 2;
  $('#pages span').textContent = `page ${found.page + 1} of ${found.pages}`;
  return `${count(found.matched)} stored${table.search ? ' match' : ''}${found.all_seen ? '' : ', of the first 20,000'}`;
}
async function show(row) {
  showing = row;
  $('#shown-title').textContent = visible(row.url);
  for (const part of ['#head', '#content', '#shown-said']) $(part).textContent = '';
  $('#picture').hidden = true;
  if (!$('#shown').open) $('#shown').showModal();
  await attempt($('#shown-said'), async () => {
    const all = await (await ask('show', { url: row.url })).json();
    // Another one may have been clicked meanwhile.
    if (showing !== row) return $('#shown-said').textContent;
    const { status, fields } = all.find((one) => one.variant === row.variant) || all[0];
    $('#head').textContent = [status, ...fields.map(([name, value]) => `${name}: ${visible(value)}`)].join('\n');
    const query = { url: row.url, variant: row.variant };
    const answer = await ask('content', query), type = answer.headers.get('Content-Type');
    const isText = type.startsWith('text/plain'), text = isText ? await answer.text() : '';
    if (showing !== row) return $('#shown-said').textContent;
    $('#content').textContent = text;
    $('#content').hidden = !isText;
    if (!isText) {
      const picture = element('img');
      picture.alt = `Picture, ${bytes(row.bytes)}, ${type}`;
      picture.src = `content?${new URLSearchParams(query)}`;
      $('#picture').replaceChildren(picture);
      $('#picture').hidden = false;
    }
  });
}
async function purge(what, value) {
  const { purged } = await (await ask('purge', { [what]: value }, 'POST')).json();
  await loadTable();
  return `${count(purged)} purged`;
}

$('#search').addEventListener('submit', (event) => {
  event.preventDefault();
  table.search = event.target.elements.search.value;
  table.page = 0;
  attempt($('#said'), loadTable);
});
$('#purge').addEventListener('submit', (event) => {
  event.preventDefault();
  const { what, value } = event.target.elements;
  const isWide = what.value === 'stale' || what.value === 'all';
  if (what.value === 'all' && !confirm('Purge everything that is stored?')) return;
  attempt($('#said'), () => {
    if (!isWide && !value.value) throw new Error('A value is missing: what is to be purged?');
    return purge(what.value, isWide ? '1' : value.value);
  });
});
$('#reload').addEventListener('click', () => attempt($('#said'), loadTable));
$('#pages').addEventListener('click', (event) => {
  const step = Number(event.target.dataset.step || 0);
  table.page = Math.max(0, table.page + step);
  if (step) attempt($('#said'), loadTable);
});
$('#close').addEventListener('click', () => $('#shown').close());
$('#shown').addEventListener('close', () => {
  // The row that was clicked may have been made anew, or be gone: then a keyboard goes on at the search.
  const rows = tableButtons(), row = rows.find((made) => made.textContent === visible(showing.url));
  if (!rows.includes(document.activeElement)) (row || $('#search input')).focus();
});
$('#purge-one').addEventListener('click', () => attempt($('#shown-said'), () => purge('url', showing.url)));
$('#refresh').addEventListener('click', () => attempt($('#shown-said'), async () => {
  const query = { url: showing.url, variant: showing.variant };
  const { status, cache_status } = await (await ask('refresh', query, 'POST')).json();
  await show(showing);
  await loadTable();
  return `${status}: ${cache_status}`;
}));
if ($('#logout')) {
  $('#logout').addEventListener('click', () => ask('logout', null, 'POST').finally(() => location.reload()));
}

attempt($('#said'), loadTable);
const stream = new EventSource('events');
stream.addEventListener('open', () => Promise.all([loadPlots(), loadRequests()]).catch(() => {}));
stream.addEventListener('message', (event) => takeEvent(JSON.parse(event.data)));
stream.addEventListener('error', () => {
  $('#stream').textContent = stream.readyState === EventSource.CLOSED
    ? 'The figures stand still: too many pages are open, or the session has ended.'
    : 'The figures stand still: no connection to the proxy; trying again.';
});
// The plots of the hour and of the whole time get a new value now and then.
setInterval(() => loadPlots().catch(() => {}), 60000);
