"""Training: what a script builds, the loop that all twelve share, and what a run leaves behind."""
from common.training.loop import Ensemble, Experiment, load_data, run, shuffled_or_balanced
from common.training.optimisers import ParamGroup, param_group

__all__ = ['Ensemble', 'Experiment', 'ParamGroup', 'load_data', 'param_group', 'run', 'shuffled_or_balanced']
