"""What training fixed: the forward process, what the network is told, what its output means."""

from skipjax.process.parameterizations import PARAMETERIZATIONS as PARAMETERIZATIONS
from skipjax.process.parameterizations import Parameterization as Parameterization
from skipjax.process.parameterizations import Point as Point
from skipjax.process.parameterizations import consistency as consistency
from skipjax.process.parameterizations import edm as edm
from skipjax.process.parameterizations import eps_of as eps_of
from skipjax.process.preconditions import Iddpm as Iddpm
from skipjax.process.preconditions import Ve as Ve
from skipjax.process.preconditions import Vp as Vp
from skipjax.process.process import SCHEDULES as SCHEDULES
from skipjax.process.process import Edm as Edm
from skipjax.process.process import Flow as Flow
from skipjax.process.process import Precondition as Precondition
from skipjax.process.process import Process as Process
from skipjax.process.process import Times as Times
from skipjax.process.process import as_schedule as as_schedule
from skipjax.process.process import called as called
from skipjax.process.process import name_of as name_of
from skipjax.process.process import one_of as one_of
from skipjax.process.process import same_schedule as same_schedule
