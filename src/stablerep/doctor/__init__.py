"""``stablerep doctor``: what is wrong with tables and runs, what to do about it, and repairs on request."""

from stablerep.doctor.examine import DoctorConfig, DoctorSummary, doctor

__all__ = ["DoctorConfig", "DoctorSummary", "doctor"]
