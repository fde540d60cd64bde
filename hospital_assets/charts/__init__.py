"""Every chart, drawn as SVG by the server, for pages, phones, print and the report.

Belongs here: scales, axes, paths, one module for each family of charts. Colours are classes; the stylesheet has
them for light, dark and print. Does not: what a figure means.

Charts over an axis (`lines`, `funnel`, `heatmap`) have no fixed width: positions along x are percentages of
the plot, whose margins the stylesheet sets, so text keeps its size on every screen. Every mark that can be pointed
at carries its values as its `<title>`: the browser shows it, and `tips.js` does so faster and for the keyboard.
"""

from hospital_assets.charts.areas import heatmap as heatmap
from hospital_assets.charts.areas import treemap as treemap
from hospital_assets.charts.funnel import funnel as funnel
from hospital_assets.charts.icons import assurance as assurance
from hospital_assets.charts.icons import variation as variation
from hospital_assets.charts.inline import bar as bar
from hospital_assets.charts.inline import markdown_sparkline as markdown_sparkline
from hospital_assets.charts.inline import range_mark as range_mark
from hospital_assets.charts.inline import sparkline as sparkline
from hospital_assets.charts.lines import lines as lines
from hospital_assets.charts.marks import measured as measured
from hospital_assets.charts.marks import number as number
from hospital_assets.charts.marks import percentage as percentage
from hospital_assets.charts.marks import shape as shape
from hospital_assets.charts.marks import ticks as ticks
from hospital_assets.charts.sankey import sankey as sankey
