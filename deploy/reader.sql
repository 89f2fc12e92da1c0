-- A login for dashboards: it reads the schema m365_v1 and nothing else, and cannot hold the server up. To be run by the
-- owner, after the first migration; again after a change of the password.
--
--   psql "$DATABASE_URL" -v login=m365_bi -v password_file=secrets/reader_password -f deploy/reader.sql
\set ON_ERROR_STOP on
\set QUIET on
\if :{?login}
\else
    \set login m365_bi
\endif
\set password `cat :'password_file'`
SELECT format('CREATE ROLE %I LOGIN', :'login') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'login') \gexec
ALTER ROLE :"login" LOGIN PASSWORD :'password' CONNECTION LIMIT 10;
ALTER ROLE :"login" SET default_transaction_read_only = on;
ALTER ROLE :"login" SET statement_timeout = '60s';
ALTER ROLE :"login" SET idle_in_transaction_session_timeout = '60s';
-- Compiling a statement takes longer than most answers here.
ALTER ROLE :"login" SET jit = off;
SET client_min_messages = warning;
GRANT m365_reader TO :"login";
\echo :login can read m365_v1
