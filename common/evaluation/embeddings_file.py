"""Embeddings that others have computed: ``.npz``, a pair of ``.npy`` files, or ``.csv``."""
from __future__ import annotations

import os
import zipfile
from typing import Dict, Optional, Union

import numpy as np

from common.errors import UsageError
from common.evaluation.retrieval import EvaluationError
from common.files import read_npz

ARRAYS = ('embeddings', 'labels', 'gallery_embeddings', 'gallery_labels')


def load_embeddings(path: str, labels_path: Optional[str] = None) -> Dict[str, np.ndarray]:
    """The arrays of an embeddings file; nothing in it is run.

    Parameters
    ----------
    path : str
        ``.npz`` with `embeddings` (N, E) and `labels` (N,), and optionally `gallery_embeddings` and `gallery_labels`;
        ``.npy`` with the embeddings alone; or ``.csv`` with a head line, one column `label`, and a column a dimension.
    labels_path : str, optional
        ``.npy`` with the labels (N,), or a text file with one label a line; needed for an ``.npy``.

    Returns
    -------
    dict
        Name -> array. Labels are whole numbers, also where the file has text or a column (N, 1).

    Raises
    ------
    EvaluationError
        A damaged file, one of another kind, one that holds Python objects, or missing arrays.
    UsageError
        Labels are missing, or given twice.
    OSError
        The file cannot be read.
    """
    kind = os.path.splitext(path)[1].lower()
    if kind == '.csv':
        arrays = _read_csv(path)
    elif kind == '.npy':
        arrays = {'embeddings': _read_arrays(path, '.npy')}
    else:
        arrays = _read_arrays(path, '.npz')
    if labels_path is not None:
        if 'labels' in arrays:
            raise UsageError(f'--labels: {path} has labels of its own')
        is_array = labels_path.lower().endswith('.npy')
        arrays['labels'] = _read_arrays(labels_path, '.npy') if is_array else _read_lines(labels_path)
    if 'labels' not in arrays and kind == '.npy':
        raise UsageError(f'--embeddings {path} has no labels: name a file of them with --labels')
    for name in ARRAYS[:2]:
        if name not in arrays:
            raise EvaluationError(f'{path}: it has no array {name!r}')
    _number_labels(arrays)
    return arrays


def _read_arrays(path: str, kind: str) -> Union[np.ndarray, Dict[str, np.ndarray]]:
    """The array of an ``.npy``, or the known ones of an ``.npz``."""
    try:
        if kind == '.npz':
            return read_npz(path, ARRAYS)
        with open(path, 'rb') as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:      # a damaged head raises SyntaxError, TokenError, ... from one Python to the next
        if 'allow_pickle' in str(error) and (kind == '.npy' or zipfile.is_zipfile(path)):
            raise EvaluationError(f'{path}: it holds Python objects; save arrays of numbers') from None
        raise EvaluationError(f'{path}: it is not an {kind} file, or a damaged one') from None


def _read_lines(path: str) -> np.ndarray:
    try:
        with open(path, encoding='utf-8') as file:
            return np.array([line.strip() for line in file if line.strip()])
    except UnicodeDecodeError:
        raise EvaluationError(f'{path}: it is neither an .npy file nor a text with one label a line') from None


def _read_csv(path: str) -> Dict[str, np.ndarray]:
    import pandas as pd     # slow to import
    try:
        table = pd.read_csv(path, dtype={'label': str}, keep_default_na=False)
        labels = table.pop('label').to_numpy(dtype=str)
        return {'labels': labels, 'embeddings': table.to_numpy(dtype=np.float64)}
    except KeyError:
        raise EvaluationError(f'{path}: it has no column "label"') from None
    except (ValueError, UnicodeDecodeError) as error:
        reason = str(error).split('\n')[0]
        raise EvaluationError(f'{path}: it is not a table of a label and numbers ({reason})') from None


def _number_labels(arrays: Dict[str, np.ndarray]) -> None:
    """Text becomes numbers, the same in queries and gallery; columns (N, 1) become rows."""
    names = [name for name in ('labels', 'gallery_labels') if name in arrays]
    for name in names:
        if arrays[name].ndim == 2 and arrays[name].shape[1] == 1:
            arrays[name] = arrays[name][:, 0]
    if any(arrays[name].dtype.kind in 'US' for name in names):
        texts = [arrays[name].astype(str) for name in names]
        _, numbers = np.unique(np.concatenate(texts), return_inverse=True)
        numbers = numbers.reshape(-1)
        for name, text in zip(names, texts):
            arrays[name], numbers = numbers[:len(text)], numbers[len(text):]
