"""All methods: importing this package registers them. A new method is one file and one line here."""

from fewhertz.methods import a_tome as a_tome
from fewhertz.methods import affinity as affinity
from fewhertz.methods import bottomk as bottomk
from fewhertz.methods import cdpruner as cdpruner
from fewhertz.methods import conv as conv
from fewhertz.methods import dart as dart
from fewhertz.methods import divprune as divprune
from fewhertz.methods import evs as evs
from fewhertz.methods import fastadasp as fastadasp
from fewhertz.methods import global_merge as global_merge
from fewhertz.methods import ltbm as ltbm
from fewhertz.methods import optimal as optimal
from fewhertz.methods import pool as pool
from fewhertz.methods import random as random
from fewhertz.methods import sa_map as sa_map
from fewhertz.methods import segment as segment
from fewhertz.methods import segmentwise as segmentwise
from fewhertz.methods import stride as stride
from fewhertz.methods import topk as topk
from fewhertz.methods import unseg as unseg
from fewhertz.methods import visionzip as visionzip
from fewhertz.methods import vispruner as vispruner
from fewhertz.methods import ward as ward
