"""What all figures have in common: the look, the names, and the bytes of a file."""
from __future__ import annotations

import io
from typing import Any, Callable, Dict, List, Sequence

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from results.aggregate import untuned
from results.algorithms import Algorithm, algorithm, algorithms, position

WIDTH = 3.3
COLOURS = 128           # of a PNG
STYLE = {
    'font.family': 'DejaVu Sans', 'font.size': 6.5, 'axes.titlesize': 7.5, 'axes.labelsize': 6.5, 'axes.linewidth': 0.5,
    'axes.spines.top': False, 'axes.spines.right': False, 'axes.edgecolor': '#888888', 'axes.axisbelow': True,
    'xtick.labelsize': 6, 'ytick.labelsize': 6.5, 'xtick.major.size': 2, 'ytick.major.size': 0,
    'xtick.major.width': 0.5, 'xtick.color': '#333333', 'ytick.color': '#000000', 'grid.color': '#E4E4E4',
    'grid.linewidth': 0.5, 'legend.fontsize': 6, 'legend.frameon': False, 'lines.linewidth': 1.1,
    'lines.markersize': 3.6,
    'hatch.linewidth': 0.6, 'svg.hashsalt': 'dml-playground', 'svg.fonttype': 'none', 'path.simplify': True}
MODEL_NAMES = {'inception-bn': 'Inception-BN', 'resnet50_v2': 'ResNet50', 'resnet18_v2': 'ResNet18',
               'efficientnet-lite0': 'EfficientNet-Lite0'}
DATASET_NAMES = {'CARS196': 'Cars196', 'CUB': 'CUB-200-2011', 'SOP': 'Stanford Online Products',
                 'INSHOP': 'In-Shop Clothes'}
SELECTION_NAMES = {'best-on-test': 'best epoch on the test set (the paper\'s rule)', 'last': 'last epoch',
                   'best-on-val': 'epoch chosen on held-out classes'}
# The images of these experiments are in folders, whose dataset has no name.
COMPARISON_NAMES = {'cars196-half': 'Cars196, training half'}
GREY = '#767676'


def board_title(dataset: str, model: str, comparison: str = '') -> str:
    """The title of a figure of one dataset and network."""
    name = COMPARISON_NAMES.get(untuned(comparison), DATASET_NAMES.get(dataset, dataset))
    tuned = ', tuned settings' if untuned(comparison) != comparison else ''
    return f'{name}, {MODEL_NAMES.get(model, model)}{tuned}'


def all_rows(keys: Sequence[str]) -> List[Algorithm]:
    """Every algorithm of the project, there or not, then the user's own."""
    return [algorithm(k) for k in sorted({*keys, *(a.key for a in algorithms())}, key=position)]


def new_figure(height: float) -> Figure:
    """An empty figure as wide as a column, `height` inches high."""
    figure = Figure(figsize=(WIDTH, height), layout='constrained')
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    FigureCanvasAgg(figure)
    return figure


def name_rows(axes: Any, rows: Sequence[Algorithm], missing: Sequence[str]) -> None:
    """Writes the algorithms' names along the y axis, in grey those that are missing."""
    axes.set_yticks(range(len(rows)), [a.name for a in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    for label, row in zip(axes.get_yticklabels(), rows):
        label.set_color(GREY if row.key in missing else 'black')


def write_gap(axes: Any, y: int, text: str) -> None:
    """Says in an empty row why it is empty."""
    axes.annotate(text, (0, y), (3, 0), xycoords=('axes fraction', 'data'), textcoords='offset points', va='center',
                  fontsize=5.5, color=GREY, style='italic',
                  bbox={'facecolor': 'white', 'edgecolor': 'none', 'pad': 0.6})


def marker_style(a: Algorithm) -> Dict[str, Any]:
    """How an algorithm's line is drawn."""
    return {'color': a.colour, 'marker': a.marker, 'linestyle': a.dashes, 'markeredgewidth': 0.9,
                'markerfacecolor': 'white' if a.open_marker else a.colour, 'markeredgecolor': a.colour}


def bottom_legend(figure: Figure, handles: Sequence[Any], columns: int) -> None:
    """A legend below the figure."""
    figure.legend(handles=list(handles), loc='outside lower center', ncols=columns, handlelength=1.9, columnspacing=1.0,
                  handletextpad=0.5, borderpad=0.1, labelspacing=0.35)


def render(figure: Figure, kind: str, dpi: int = 300) -> bytes:
    """A figure as the bytes of a ``png`` or ``svg`` file, the same bytes every time."""
    buffer = io.BytesIO()
    metadata = {'Date': None, 'Creator': None} if kind == 'svg' else {'Software': None}
    figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    if kind == 'svg':
        return buffer.getvalue()
    small = io.BytesIO()            # a palette makes it a third as large
    with Image.open(buffer) as image:
        image.convert('RGB').quantize(COLOURS, dither=Image.Dither.NONE).save(small, 'png', optimize=True)
    return small.getvalue()


def styled(draw: Callable[[], Any]) -> Any:
    """Calls `draw` with the project's look; matplotlib reads some of it only when it renders."""
    with matplotlib.rc_context(STYLE):
        return draw()
