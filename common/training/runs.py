"""All runs of one command, each from a fresh start and with the next seed."""
from __future__ import annotations

import argparse
import copy
from typing import Any, Callable, Dict, Union

from common.seeds import seed_everything
from common.training.ensemble import train_ensemble
from common.training.experiment import Ensemble, Experiment
from common.training.loop import SingleNetwork, train_network
from common.training.session import Session


def run(opt: argparse.Namespace, build: Callable[..., Union[Experiment, Ensemble]]) -> Dict[str, Any]:
    """Trains as the flags say.

    Parameters
    ----------
    opt : Namespace
        The flags, from the script's `parse_args`. `opt.gpus` may be a list of contexts.
    build : callable
        ``build(opt, data, ctx)`` -> Experiment or Ensemble, called for every run, with the seed of the run in `opt`.

    Returns
    -------
    dict
        ``runs``, one result a run as in the log's `run_end`, and ``summary``, as in the log. Percents. With --kvstore
        dist_sync, workers other than worker 0 get an empty one.

    Raises
    ------
    UsageError, TrainingError, DatasetError, ModelError, EvaluationError
        With one sentence that says what is wrong.
    """
    with Session(opt) as session:
        for number in range(session.progress.run, opt.number_of_runs + 1):
            opt = copy.copy(session.opt)
            opt.seed = session.opt.seed + number - 1
            seed_everything(opt.seed)
            built = build(opt, session.data, session.ctx)
            if isinstance(built, Ensemble):
                train_ensemble(session, opt, built, number)
                session.end_run(number, opt.seed, {})
            else:
                learner = train_network(session, opt, built, SingleNetwork(session, opt, number))
                session.end_run(number, opt.seed, learner.arrays())
        return {} if session.cluster.rank else session.recorder.summary()
