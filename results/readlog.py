"""Reads run logs: the JSON lines of this project and the plain text that the paper's repository wrote.

Any file gives experiments or one `LogError`. What is damaged is left out: a line that was cut off, an unknown event, a
value that is not a number. Metrics are in percent, and epoch 0 is always the untrained network.
"""
from __future__ import annotations

import json
import os
from typing import Any, BinaryIO, Dict, Iterable, Iterator, List, Optional, Tuple

from common.errors import UserError
from results.algorithms import identify
from results.paper_logs import PaperLog
from results.records import (
    SELECTIONS,
    SETUP,
    Epoch,
    Experiment,
    Run,
    as_dict,
    as_text,
    choose_epochs,
    finite,
    integer,
    known_metrics,
    whole_count,
    whole_counts,
)

SUFFIXES = ('.jsonl', '.log')
MAX_LINE = 1 << 20          # bytes; a longer line is no line of a log


class LogError(UserError):
    """A file, or a set of files, holds no usable run; the message is one sentence."""


def read_log(path: str) -> List[Experiment]:
    """Reads one log, of either format.

    Returns
    -------
    list of Experiment
        In the order in which they start in the file. Each has a run with at least one metric, or one that diverged.

    Raises
    ------
    LogError
        If the file cannot be read, or holds nothing usable.
    """
    events: Dict[str, List[Dict[str, Any]]] = {}        # by the id of the experiment
    text = PaperLog(path)
    try:
        with open(path, 'rb') as file:
            for raw in _lines(file):
                line = raw.decode('utf-8', 'replace').strip()
                if line.startswith('{'):
                    event = _event(line)
                    if event is not None:
                        events.setdefault(event['id'], []).append(event)
                else:
                    text.line(line)
    except (OSError, ValueError) as error:
        raise LogError(f'{path}: {getattr(error, "strerror", None) or error}') from error
    found = [*filter(None, (_experiment(identity, own, path) for identity, own in events.items())), *text.finish()]
    if not found:
        raise LogError(f'{path}: no run log (neither JSON lines nor the text of a training script)')
    return found


def log_files(paths: Iterable[str]) -> List[str]:
    """All logs among `paths`: files as they are, folders searched for ``.jsonl`` and ``.log``, hidden ones left out."""
    files = []
    for path in paths:
        if os.path.isdir(path):
            for folder, names, members in os.walk(path):
                names[:] = sorted(n for n in names if not n.startswith('.'))
                files += [os.path.join(folder, m) for m in sorted(members)
                          if m.endswith(SUFFIXES) and not m.startswith('.')]
        else:
            files.append(path)
    return list(dict.fromkeys(files))


def read_logs(paths: Iterable[str]) -> Tuple[List[Experiment], List[str]]:
    """Reads files and folders.

    Returns
    -------
    experiments : list of Experiment
        Of all logs; the same experiment found twice in a comparison (a copied file) is there once.
    problems : list of str
        One sentence for each file that could not be used.

    Raises
    ------
    LogError
        If nothing at all could be used.
    """
    paths = list(paths)
    files = log_files(paths)
    found: Dict[Tuple[str, str], Experiment] = {}
    problems = []
    for path in files:
        try:
            for experiment in read_log(path):
                key = experiment.comparison, experiment.id
                if key not in found or _extent(experiment) > _extent(found[key]):
                    found[key] = experiment
        except LogError as error:
            problems.append(str(error))
    if not found:
        raise LogError(problems[0] if len(problems) == 1 else f'no run log in {", ".join(paths) or "no place"}')
    return list(found.values()), problems


def _extent(experiment: Experiment) -> Tuple[int, int]:
    runs = experiment.runs.values()
    return sum(run.finished for run in runs), sum(len(run.epochs) for run in runs)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines of a file in bounded memory; what is longer than a line of a log can be is dropped."""
    too_long = False
    for part in iter(lambda: file.readline(MAX_LINE), b''):
        ended = len(part) < MAX_LINE or part.endswith(b'\n')
        if ended and not too_long:
            yield part
        too_long = not ended


# ---------------------------------------------------------------------------------------------------------------------
# JSON lines

def _event(line: str) -> Optional[Dict[str, Any]]:
    try:
        value = as_dict(json.loads(line))
    except (ValueError, RecursionError):
        return None
    return value if as_text(value.get('event')) and as_text(value.get('id')) else None


def _experiment(identity: str, events: List[Dict[str, Any]], path: str) -> Optional[Experiment]:
    config = next((e for e in reversed(events) if e['event'] == 'config'), None)
    if config is None:
        return None
    flags = as_dict(config.get('flags'))
    name, script = (as_text(config.get(field)) or None for field in ('algorithm', 'script'))
    experiment = Experiment(
        id=identity, path=path, algorithm=identify(name, script, flags, path), flags=flags, runs={},
        time=as_text(config.get('time')),
        dataset=as_text(config.get('dataset')) or as_text(flags.get('dataset')) or 'unknown',
        model=as_text(config.get('model')) or as_text(flags.get('model')) or 'unknown',
        seed=integer(config.get('seed')), versions=as_dict(config.get('versions')),
        device=[str(d) for d in config.get('device')] if isinstance(config.get('device'), list) else [],
        weights=as_dict(config.get('weights')) or None, git=as_text(config.get('git')) or None,
        data=as_dict(config.get('data')),
        setup={name: config[name] for name in SETUP if name in config})

    # The run is (run number), the epoch (run, member, epoch): of lines that a resumed run wrote twice the last counts.
    epochs: Dict[int, Dict[Tuple[int, int], Epoch]] = {}
    for event in events:
        kind, number = event['event'], whole_count(event.get('run'))
        if kind == 'skipped_image':
            experiment.skipped.append({'path': str(event.get('path')), 'reason': str(event.get('reason'))})
        elif kind in ('epoch', 'run_end', 'diverged') and number:
            run = experiment.runs.setdefault(number, Run(number))
            if kind == 'epoch':
                epoch = _epoch(event)
                run.embedding_size = whole_count(event.get('embedding_size')) or run.embedding_size
                if epoch is not None:
                    epochs.setdefault(number, {})[epoch.member or 0, epoch.number] = epoch
            elif kind == 'run_end':
                _end_run(run, event)
            else:
                run.diverged = {k: v for k, v in event.items() if k not in ('event', 'id')}
    experiment.events = [{**config, 'flags': flags}, *_once(events)]
    for number, run in experiment.runs.items():
        run.epochs = [epochs[number][key] for key in sorted(epochs.get(number, {}))]
        if run.seed is None and experiment.seed is not None:
            run.seed = experiment.seed + number - 1
        choose_epochs(run)
        if run.finished:
            run.diverged = None         # that was before it was resumed
    experiment.runs = {n: r for n, r in sorted(experiment.runs.items()) if r.finished or r.epochs or r.diverged}
    return experiment if experiment.runs else None


def _once(events: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """The lines about epochs and the ends of runs, in order; of several about the same, the last."""
    last: Dict[Tuple, Dict[str, Any]] = {}
    for event in events:
        kind, run, epoch = event['event'], whole_count(event.get('run')), whole_count(event.get('epoch'))
        if not run or kind in ('epoch', 'best') and epoch is None:
            continue
        key = (run, kind, epoch, whole_count(event.get('member')), as_text(event.get('selection')))
        if kind in ('run_end', 'diverged'):
            key = (run, 'end')
        elif kind not in ('epoch', 'best'):
            continue
        last[key] = {**event, 'run': run, **({} if epoch is None else {'epoch': epoch})}
    order = {'run_end': 1, 'diverged': 1}
    return sorted(last.values(), key=lambda event: (event['run'], order.get(event['event'], 0), event.get('epoch', 0)))


def _epoch(event: Dict[str, Any]) -> Optional[Epoch]:
    number = whole_count(event.get('epoch'))
    if number is None:
        return None
    outputs = {str(name): known_metrics(value) for name, value in as_dict(event.get('outputs')).items()}
    return Epoch(number, whole_count(event.get('member')), known_metrics(event), finite(event.get('loss')),
                 finite(event.get('seconds')), known_metrics(event.get('val')),
                 {name: value for name, value in outputs.items() if value})


def _end_run(run: Run, event: Dict[str, Any]) -> None:
    run.finished = True
    run.seed = integer(event.get('seed'))
    for name in ('seconds', 'images_seen', 'evaluation_seconds', 'total_seconds', 'peak_memory_mb', 'gpu_memory_mb'):
        setattr(run, name, finite(event.get(name)))
    run.class_images = whole_counts(event.get('class_images'))
    for selection in SELECTIONS:
        found = as_dict(event.get(selection))
        metrics = known_metrics(found)
        if metrics:
            run.chosen[selection] = (whole_count(found.get('epoch')), metrics)
        hits = whole_counts(found.get('class_hits'))
        if _are_hits(hits, run.class_images, metrics.get('recall@1')):
            run.class_hits[selection] = hits


def _are_hits(hits: List[int], images: List[int], recall: Optional[float]) -> bool:
    """Do results by class make the recall@1 that the log says?"""
    if recall is None or not images or len(hits) != len(images) or any(h > n for h, n in zip(hits, images)):
        return False
    return sum(images) > 0 and abs(100 * sum(hits) / sum(images) - recall) < 1e-4
