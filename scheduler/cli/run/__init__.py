"""Running the extender: serve, config, certificates, doctor, healthcheck."""
