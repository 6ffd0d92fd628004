"""The networks of EDM and EDM2."""

from skipjax.models.edm.config import EdmConfig as EdmConfig
from skipjax.models.edm.dhariwal import DhariwalUNetConfig as DhariwalUNetConfig
from skipjax.models.edm.magnitude import MagnitudeUNetConfig as MagnitudeUNetConfig
from skipjax.models.edm.song import SongUNetConfig as SongUNetConfig
