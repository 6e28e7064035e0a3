"""Training: what a script builds, the loop that all scripts share, and what a run leaves behind."""
from common.training.backbone import build_backbone
from common.training.experiment import Data, Ensemble, Experiment, load_data, shuffled_or_balanced
from common.training.optimisers import ParamGroup, param_group
from common.training.runs import run

__all__ = ['Data', 'Ensemble', 'Experiment', 'ParamGroup', 'build_backbone', 'load_data', 'param_group', 'run',
           'shuffled_or_balanced']
