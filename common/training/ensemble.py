"""Ensembles: networks that are trained one after another, and whose embeddings are concatenated (DREML).

A member is trained as any network (:func:`common.training.loop.train_network`), with two differences. It is evaluated
once, after its last epoch, together with the members before it. It is saved with its embeddings, so that a resumed run
need not compute them again.
"""
from __future__ import annotations

import argparse
import io
from typing import Any, Dict, List

import numpy as np

from common.errors import UsageError
from common.evaluation import embed
from common.files import atomic_write
from common.seeds import derived_seed, seed_everything
from common.training.experiment import Ensemble
from common.training.learner import Learner
from common.training.loop import SingleNetwork, train_network
from common.training.session import Session
from models.ensemble import concatenate_members
from models.loading import load_parameters


def train_ensemble(session: Session, opt: argparse.Namespace, ensemble: Ensemble, run: int) -> None:
    """Trains the members that are not done yet; the embeddings of the others are read from the disk."""
    if opt.early_stopping:
        raise UsageError('--early-stopping: the networks of an ensemble are scored after their last epoch only')
    finished: Dict[str, List[np.ndarray]] = {name: [] for name in session.evaluated}
    for number in range(ensemble.size):
        member = Member(session, opt, run, number, ensemble, finished)
        if number < session.progress.member:
            member.restore()
            continue
        seed_everything(opt.seed, number)
        experiment = ensemble.member(number)
        train_network(session, opt, experiment, member)


class Member(SingleNetwork):
    """One network of an ensemble.

    Parameters
    ----------
    number : int
        From 0.
    finished : dict
        Name of an evaluated set -> embeddings of the members before, to which this one's are added.
    """

    def __init__(self, session: Session, opt: argparse.Namespace, run: int, number: int, ensemble: Ensemble,
                 finished: Dict[str, List[np.ndarray]]):
        super().__init__(session, opt, run)
        self.number, self.ensemble, self.finished = number, ensemble, finished
        self.seed = derived_seed(opt.seed, number)
        self.epochs_before = number * opt.epochs
        self.is_first, self.members = number == 0, ensemble.size
        self.kind = f'member{number + 1:02d}'

    def is_due(self, epoch: int) -> bool:
        """Evaluated after its last epoch only."""
        return epoch == self.opt.epochs

    def combine(self, name: str, outputs: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """The embeddings of the ensemble so far."""
        self.finished[name].append(next(iter(outputs.values())))
        return {'': concatenate_members(self.finished[name])}

    def keep(self, learner: Learner, scores: Dict[str, Any], epoch: int) -> None:
        """Notes the result; a member alone is never the best network."""
        self.session.recorder.choose(self.run, epoch, scores)

    def finish(self, learner: Learner) -> None:
        """Saves the member and its embeddings, and goes on to the next."""
        session, path = self.session, self.session.files.path(self.run, self.kind)
        if path is not None:
            session.recorder.save_network(learner.net, self.run, self.kind)
            for name, embeddings in self.finished.items():
                content = io.BytesIO()  # on a full disk, np.save to a file does not say why it failed
                np.save(content, embeddings[self.number], allow_pickle=False)
                with atomic_write(self._embeddings_path(name)) as file:
                    file.write(content.getbuffer())
        if self.number < self.ensemble.size - 1:
            session.progress.member, session.progress.epoch = self.number + 1, None

    def _embeddings_path(self, name: str) -> str:
        return self.session.files.path(self.run, self.kind)[:-len('.params')] + f'-{name}.npy'

    def restore(self) -> None:
        """Reads a finished member's embeddings from the disk; if they are damaged, its saved network computes them."""
        session, learner = self.session, None
        for name, loader in session.evaluated.items():
            others = self.finished[name]
            try:
                embeddings = np.load(self._embeddings_path(name), allow_pickle=False)
                if embeddings.ndim != 2 or any(len(embeddings) != len(other) for other in others):
                    raise ValueError
            except (OSError, ValueError, EOFError):
                if learner is None:
                    learner = Learner(self.ensemble.member(self.number), self.opt, session.ctx)
                    load_parameters(learner.net, session.files.path(self.run, self.kind), session.ctx)
                embeddings, _ = embed(learner.embed, session.interrupts.between(loader), session.ctx)
            others.append(embeddings)
