'use strict';
// Sorting, filtering and the comparison of two algorithms. The page is complete without: this only rearranges it.

function sortBy(table, column, button) {
  const header = button.closest('th');
  const numeric = header.dataset.kind === 'number';
  const first = numeric ? 'descending' : 'ascending';
  const order = header.getAttribute('aria-sort') === first ? (numeric ? 'ascending' : 'descending') : first;
  table.querySelectorAll('thead th').forEach(th => th.removeAttribute('aria-sort'));
  header.setAttribute('aria-sort', order);
  const sign = order === 'ascending' ? 1 : -1;
  const body = table.tBodies[0];
  const keyed = Array.from(body.rows).map((row, i) => {
    const text = row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    return {row, i, key: numeric ? (text === '' ? NaN : Number(text)) : text.toLowerCase()};
  });
  keyed.sort((a, b) => {
    if (numeric && (Number.isNaN(a.key) || Number.isNaN(b.key))) {
      return Number.isNaN(a.key) - Number.isNaN(b.key) || a.i - b.i;      // what has no value comes last, both ways
    }
    return (a.key < b.key ? -sign : a.key > b.key ? sign : 0) || a.i - b.i;
  });
  keyed.forEach(item => body.append(item.row));
}

document.querySelectorAll('table.sortable').forEach(table => {
  table.querySelectorAll('thead th').forEach((th, column) => {
    const button = th.querySelector('button');
    if (button) button.addEventListener('click', () => sortBy(table, column, button));
  });
});

document.querySelectorAll('section.board').forEach(section => {
  const table = section.querySelector('table.leaderboard');
  const selection = section.querySelector('select.selection');
  const words = section.querySelector('input.filter');
  const none = section.querySelector('.none');
  const filter = () => {
    const wanted = words.value.trim().toLowerCase().split(/\s+/);
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      const fits = row.dataset.selection === '' || row.dataset.selection === selection.value;
      row.hidden = !(fits && wanted.every(word => text.includes(word)));
      shown += !row.hidden;
    }
    none.hidden = shown > 0;
  };
  selection.addEventListener('change', filter);
  words.addEventListener('input', filter);
  section.querySelector('input.columns').addEventListener('change', event => {
    table.classList.toggle('all', event.target.checked);
  });
  filter();

  const data = section.querySelector('script[type="application/json"]');
  if (!data) return;
  const compared = JSON.parse(data.textContent);
  const [first, second, metric] = ['first', 'second', 'metric'].map(c => section.querySelector(`select.${c}`));
  const verdict = section.querySelector('.verdict');
  const say = () => {
    const [a, b] = [Number(first.value), Number(second.value)];
    const key = `${Math.min(a, b)},${Math.max(a, b)}`;
    verdict.textContent = a === b ? 'Choose two different algorithms.'
      : compared[selection.value]?.[metric.value]?.[key] ?? 'At least one of the two has no value for this.';
  };
  [first, second, metric, selection].forEach(control => control.addEventListener('change', say));
  say();
});
