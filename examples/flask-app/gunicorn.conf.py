"""gunicorn's settings: the image's root file system is read-only, so heartbeats go to memory."""

bind = "0.0.0.0:8080"
workers = 2
worker_tmp_dir = "/dev/shm"
graceful_timeout = 20
accesslog = "-"
