"""All methods: importing this package registers them. A new method is one file and one line here."""

from fewhertz.methods import bottomk as bottomk
from fewhertz.methods import global_merge as global_merge
from fewhertz.methods import ltbm as ltbm
from fewhertz.methods import pool as pool
from fewhertz.methods import random as random
from fewhertz.methods import segment as segment
from fewhertz.methods import segmentwise as segmentwise
from fewhertz.methods import stride as stride
from fewhertz.methods import topk as topk
from fewhertz.methods import unseg as unseg
from fewhertz.methods import visionzip as visionzip
