"""The parts of a run that are needed before JAX is imported; no module here imports JAX."""

from .exit_codes import ExitCode as ExitCode
from .files import SUMMARY as SUMMARY
from .judgement import final_loss as final_loss
from .place import ADDRESS as ADDRESS, HostsError as HostsError, Place as Place, place as place
from .sentences import sentence as sentence, show as show
from .settings import CHANGEABLE as CHANGEABLE, MODEL_STREAM as MODEL_STREAM, Settings as Settings
from .signals import StopSignals as StopSignals
