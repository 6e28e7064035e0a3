"""What else differs between methods that are compared, and what their embeddings look like inside: from logs alone.

A method may win because its embedding is longer, its batches are larger, or it sees more images. The confound card
shows these, one row for each method. What an old log does not say is left empty; flags that it does not have stand for
what was done before they were there.
"""
from __future__ import annotations

import re
from typing import Any, Dict, List, Optional, Sequence

from common.stats import PLAIN_METRICS, STRUCTURE_METRICS
from results.aggregate import Board, Group
from results.figures.style import MODEL_NAMES
from results.records import Experiment, as_dict, finite, integer, whole_count
from results.statistics import Interval, metric_title

HEADS = ('Dimensions', 'Pooling', 'Batch norm', 'Crop', 'Sampler', 'Batch', 'Optimiser', 'Images seen', 'Parameters',
         'Training, s', 'Evaluation, s', 'Total, s', 'Memory, MB')



def card(group: Group) -> Dict[str, str]:
    """The cells of a group's row, by :data:`HEADS`; empty where the logs do not say."""
    experiment, run = (group.runs or group.open)[-1]
    flags, setup = experiment.flags, experiment.setup
    members = whole_count(setup.get('members')) or whole_count(flags.get('ensemble_size')) or 1
    memory = _count(group.median('peak_memory_mb'))
    gpu = _count(group.median('gpu_memory_mb'))
    cells = (_dimensions(run.embedding_size or whole_count(flags.get('embed_dim')), members),
             str(flags.get('pooling', 'avg')), _batch_norm(flags), _crop(flags), _sampler(experiment),
             _count(_batch(experiment)), _optimiser(flags), _count(group.median('images_seen')),
             _parameters(as_dict(setup.get('parameters')), members), _count(group.median('seconds')),
             _count(group.median('evaluation_seconds')), _count(group.median('total_seconds')),
             f'{memory} + {gpu} on the GPU' if gpu else memory)
    return dict(zip(HEADS, cells))


def _count(value: Optional[float]) -> str:
    return '' if value is None else f'{value:,.0f}'


def _dimensions(size: Optional[int], members: int) -> str:
    if size is None:
        return ''
    return f'{size:,} ({members} x {size // members})' if members > 1 and size % members == 0 else f'{size:,}'


def _batch_norm(flags: Dict[str, Any]) -> str:
    frozen = flags.get('freeze_backbone')
    if flags.get('freeze_bn') or frozen == 'all':
        return 'frozen'
    return f'frozen for {frozen} epochs' if frozen else 'trained'


def _crop(flags: Dict[str, Any]) -> str:
    size, resize = (whole_count(flags.get(name)) for name in ('image_size', 'resize'))
    if size is None:
        return ''
    text = f'{size}' + (f' of {resize}' if resize else '')
    scale = finite(flags.get('min_scale'))
    if scale is not None and scale < 1:
        text += f', area from {scale:g}'
    return text + (', mirrored' if flags.get('mirror') else '') + (', in boxes' if flags.get('use_crops') else '')


def _batch(experiment: Experiment) -> Optional[int]:
    flags = experiment.flags
    episode = [whole_count(flags.get(name)) for name in ('nc', 'ns', 'nq')]
    return (whole_count(experiment.setup.get('batch_images'))
            or (episode[0] * (episode[1] + episode[2]) if all(episode) else whole_count(flags.get('batch_size'))))


def _sampler(experiment: Experiment) -> str:
    """In words; where an old log does not name it, as the flags show it."""
    flags = experiment.flags
    name, each = experiment.setup.get('sampler'), whole_count(flags.get('batch_k'))
    episode = [whole_count(flags.get(flag)) for flag in ('nc', 'ns', 'nq')]
    if all(episode) and name in (None, 'EpisodeBatches'):
        return f'{episode[0]} classes x ({episode[1]} support + {episode[2]} query)'
    if each and name in (None, 'BalancedBatches'):
        return f'{(_batch(experiment) or 0) // each} classes x {each}'
    return {'ShuffledBatches': 'shuffled', 'PairBatches': 'one pair a class'}.get(name, str(name or ''))


def _optimiser(flags: Dict[str, Any]) -> str:
    said = [str(flags['optimizer'])] if flags.get('optimizer') else []
    numbers = {name: finite(flags.get(name)) for name in ('lr', 'wd', 'momentum')}
    said += [f'{name} {value:g}' for name, value in numbers.items() if value is not None]
    schedule = flags.get('schedule', 'step')
    return ', '.join(said + ([] if schedule == 'step' else [str(schedule)])
                     + ([f'warm-up {flags["warmup"]}'] if flags.get('warmup') else []))


def _parameters(counts: Dict[str, Any], members: int) -> str:
    parts = [integer(counts.get(name)) for name in ('backbone', 'head', 'loss')]
    return '' if None in parts else ' + '.join(f'{members * part:,}' for part in parts)


def markdown(text: str) -> str:
    """A text that Markdown shows as it is."""
    return re.sub(r'([|\\`*_<>\[\]])', r'\\\1', text).replace('\n', ' ')


def _title(board: Board, title: str) -> str:
    return f'**{title or board.dataset + ", " + MODEL_NAMES.get(board.model, board.model)}**'


def _rows(heads: Sequence[str], rows: Sequence[Sequence[str]], rule: str) -> List[str]:
    return [f'| {" | ".join(heads)} |', f'|---|{"|".join([rule] * (len(heads) - 1))}|',
            *(f'| {" | ".join(map(markdown, row))} |' for row in rows)]


def card_table(board: Board, title: str = '') -> str:
    """The confound card of a board as Markdown, without columns that no log fills; empty without runs."""
    cards = [(group.name, card(group)) for group in board.groups if group.runs]
    if not cards:
        return ''
    heads = [head for head in HEADS if any(cells[head] for _, cells in cards)]
    rows = [[name, *(cells[head] for head in heads)] for name, cells in cards]
    return '\n'.join([_title(board, title), '', *_rows(['', *heads], rows, '---')])


def structure_table(board: Board, title: str = '') -> str:
    """What the embeddings of a board look like inside, as Markdown; empty where no log says it."""
    metrics = [m for m in STRUCTURE_METRICS if any(g.values('last', m) for g in board.groups)]
    rows = [[group.name, *(_mean(group.interval('last', m), 3 if m in PLAIN_METRICS else 1) for m in metrics)]
            for group in board.groups if any(group.values('last', m) for m in metrics)]
    if not rows:
        return ''
    heads = ['', *(metric_title(m) for m in metrics)]
    return '\n'.join([_title(board, title), '', *_rows(heads, rows, '---:')])


def _mean(one: Optional[Interval], digits: int) -> str:
    return '' if one is None else f'{one.mean:.{digits}f}'
