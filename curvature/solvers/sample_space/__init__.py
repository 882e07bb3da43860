from .solver import SampleSpace as SampleSpace
