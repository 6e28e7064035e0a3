"""Training: what a script builds, the loop that all scripts share, and what a run leaves behind."""
from common.training.experiment import Data, Ensemble, Experiment, load_data, shuffled_or_balanced
from common.training.optimisers import ParamGroup, head_and_backbone, param_group
from common.training.runs import run

__all__ = ['Data', 'Ensemble', 'Experiment', 'ParamGroup', 'head_and_backbone', 'load_data',
           'param_group', 'run', 'shuffled_or_balanced']
