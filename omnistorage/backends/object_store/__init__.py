"""What S3, GCS and Azure share: one backend over an ``ObjectClient``, its reader, its writer, and obstore."""
