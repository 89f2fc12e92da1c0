"""Superset as `make test-bi` runs it: on loopback, with a metadata database of its own, for as long as the test takes."""

import os

SECRET_KEY = os.environ["SUPERSET_SECRET_KEY"]
SQLALCHEMY_DATABASE_URI = os.environ["SUPERSET_METADATA"]
# The driver of the test is no browser: it signs in with a token and sends no cookies that another site could use.
WTF_CSRF_ENABLED = False
TALISMAN_ENABLED = False
RATELIMIT_ENABLED = False
