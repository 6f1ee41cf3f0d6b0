"""The parts of ``RollingRecordWriter``."""
