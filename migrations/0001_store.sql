-- The private house of the data: schema m365_store. Programs outside read m365_v1 instead.
-- Not breaking.
--
-- tenant_id leads every key and no foreign key leaves a big table, so that the schema can be distributed by tenant
-- (Citus) or cut by time (TimescaleDB, native partitions) as it is.

SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '5min';

CREATE SCHEMA IF NOT EXISTS m365_store;

-- Which migrations an older program must not run against: those flagged breaking.
CREATE TABLE m365_store.schema_change (
    version     bigint      NOT NULL PRIMARY KEY,
    breaking    boolean     NOT NULL,
    description text        NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE m365_store.schema_change IS
    'One row for each migration. A program that does not know a version runs on unless that version is breaking.';

CREATE TABLE m365_store.tenant (
    tenant_id     uuid        NOT NULL PRIMARY KEY,
    name          text        NOT NULL,
    cloud         text        NOT NULL,
    first_seen_at timestamptz NOT NULL
);

-- What is to be fetched, as the configuration last said. Kept here so that SQL can tell "late" from "not wanted".
CREATE TABLE m365_store.target (
    tenant_id        uuid     NOT NULL,
    report           text     NOT NULL,
    report_period    smallint NOT NULL,
    enabled          boolean  NOT NULL,
    interval_seconds integer  NOT NULL,
    PRIMARY KEY (tenant_id, report, report_period)
);
COMMENT ON COLUMN m365_store.target.interval_seconds IS 'Longest time between two due instants of its schedule.';

-- A running process. Its claims hold as long as its lease does; the lease is renewed by the database's clock.
CREATE TABLE m365_store.worker (
    worker_id   uuid        NOT NULL PRIMARY KEY,
    host        text        NOT NULL,
    version     text        NOT NULL,
    started_at  timestamptz NOT NULL,
    lease_until timestamptz NOT NULL
);

-- A target x the instant it was due. Open while outcome is null.
CREATE TABLE m365_store.slot (
    tenant_id     uuid        NOT NULL,
    report        text        NOT NULL,
    report_period smallint    NOT NULL,
    due_at        timestamptz NOT NULL,
    origin        text        NOT NULL CHECK (origin IN ('schedule', 'asked')),
    missed        integer     NOT NULL DEFAULT 0 CHECK (missed >= 0),
    not_before    timestamptz NOT NULL,
    attempts      smallint    NOT NULL DEFAULT 0,
    term          bigint      NOT NULL DEFAULT 0,
    worker_id     uuid,
    attempt_id    uuid,
    claimed_at    timestamptz,
    outcome       text        CHECK (outcome IN ('stored', 'unchanged', 'empty', 'rejected', 'failed', 'skipped')),
    error_class   text,
    closed_at     timestamptz,
    PRIMARY KEY (tenant_id, report, report_period, due_at)
) WITH (fillfactor = 70);
CREATE INDEX slot_open ON m365_store.slot (tenant_id, not_before) WHERE outcome IS NULL;
COMMENT ON TABLE m365_store.slot IS 'A target x the instant it was due; unique, so no clock can repeat it.';
COMMENT ON COLUMN m365_store.slot.missed IS 'Due instants before this one that passed while nothing ran; one catch-up stands for all.';
COMMENT ON COLUMN m365_store.slot.term IS 'Grows with each claim; a write under an older term is refused (fencing).';

-- One try at a slot. Only ever appended to.
CREATE TABLE m365_store.attempt (
    attempt_id          uuid        NOT NULL,
    tenant_id           uuid        NOT NULL,
    report              text        NOT NULL,
    report_period       smallint    NOT NULL,
    due_at              timestamptz NOT NULL,
    worker_id           uuid        NOT NULL,
    started_at          timestamptz NOT NULL,
    finished_at         timestamptz NOT NULL,
    outcome             text        NOT NULL
        CHECK (outcome IN ('stored', 'unchanged', 'empty', 'rejected', 'failed', 'abandoned')),
    error_class         text,
    error_message       text,
    http_status         smallint,
    request_id          text,
    client_request_id   uuid,
    graph_calls         smallint    NOT NULL,
    retry_at            timestamptz,
    report_refresh_date date,
    rows_inserted       integer     NOT NULL DEFAULT 0,
    rows_updated        integer     NOT NULL DEFAULT 0,
    rows_unchanged      integer     NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, attempt_id)
);
CREATE INDEX attempt_latest ON m365_store.attempt (tenant_id, report, report_period, finished_at DESC);
CREATE INDEX attempt_recent ON m365_store.attempt (tenant_id, report, finished_at);
CREATE INDEX attempt_throttled ON m365_store.attempt (tenant_id, report, retry_at) WHERE retry_at IS NOT NULL;
CREATE INDEX attempt_finished ON m365_store.attempt (finished_at);
COMMENT ON COLUMN m365_store.attempt.retry_at IS 'Microsoft asked (Retry-After) not to be called for this tenant and report before.';

-- The ledger: one row for each snapshot held. Written in the same transaction as its facts.
CREATE TABLE m365_store.snapshot (
    tenant_id           uuid        NOT NULL,
    report              text        NOT NULL,
    report_period       smallint    NOT NULL,
    report_refresh_date date        NOT NULL,
    revision            integer     NOT NULL,
    row_count           integer     NOT NULL CHECK (row_count > 0),
    first_report_date   date        NOT NULL,
    last_report_date    date        NOT NULL,
    content_hash        bytea       NOT NULL CHECK (octet_length(content_hash) = 32),
    source_columns      text[]      NOT NULL,
    attempt_id          uuid        NOT NULL,
    first_fetched_at    timestamptz NOT NULL,
    fetched_at          timestamptz NOT NULL,
    body_hash           bytea       CHECK (octet_length(body_hash) = 32),
    PRIMARY KEY (tenant_id, report, report_period, report_refresh_date)
);
COMMENT ON COLUMN m365_store.snapshot.revision IS '1, and one more each time the same refresh date was served with other content.';
COMMENT ON COLUMN m365_store.snapshot.content_hash IS 'Canonical SHA-256 of the rows: what verify recomputes from the facts.';
COMMENT ON COLUMN m365_store.snapshot.body_hash IS
    'SHA-256 of the bytes as they came: the same bytes again need not be read. Null: unknown.';
COMMENT ON COLUMN m365_store.snapshot.fetched_at IS 'When this content was first fetched. A repeated body writes nothing: see attempt for the latest look.';

-- Refused bodies, kept for a person to look at. attempt_id is that of the attempt that refused it.
CREATE TABLE m365_store.quarantine (
    tenant_id     uuid        NOT NULL,
    attempt_id    uuid        NOT NULL,
    report        text        NOT NULL,
    report_period smallint    NOT NULL,
    received_at   timestamptz NOT NULL,
    error_class   text        NOT NULL,
    reason        text        NOT NULL,
    body          bytea       NOT NULL CHECK (octet_length(body) <= 262144),
    body_bytes    bigint      NOT NULL,
    PRIMARY KEY (tenant_id, attempt_id)
);
CREATE INDEX quarantine_received ON m365_store.quarantine (received_at);
COMMENT ON COLUMN m365_store.quarantine.body IS 'The first 256 KiB as received; links are cut after the host, because they can be credentials.';

-- ---- getOffice365ActiveUserCounts ------------------------------------------------------------------------------------
-- The measures are those of the report's definition, in its order. Null is "no value", never 0.

CREATE TABLE m365_store.office365_active_user_counts (
    tenant_id           uuid        NOT NULL,
    report_date         date        NOT NULL,
    report_refresh_date date        NOT NULL,
    report_period       smallint    NOT NULL,
    office_365          bigint,
    exchange            bigint,
    onedrive            bigint,
    sharepoint          bigint,
    skype_for_business  bigint,
    yammer              bigint,
    teams               bigint,
    extra               jsonb,
    fetched_at          timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, report_date, report_refresh_date, report_period)
);
COMMENT ON TABLE m365_store.office365_active_user_counts IS 'The facts: every figure of every refresh and period, as Microsoft reported it.';

CREATE TABLE m365_store.office365_active_user_counts_current (
    tenant_id           uuid        NOT NULL,
    report_date         date        NOT NULL,
    report_refresh_date date        NOT NULL,
    report_period       smallint    NOT NULL,
    office_365          bigint,
    exchange            bigint,
    onedrive            bigint,
    sharepoint          bigint,
    skype_for_business  bigint,
    yammer              bigint,
    teams               bigint,
    extra               jsonb,
    fetched_at          timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, report_date)
) WITH (fillfactor = 85);
CREATE INDEX office365_active_user_counts_current_by_date
    ON m365_store.office365_active_user_counts_current (report_date);
COMMENT ON TABLE m365_store.office365_active_user_counts_current IS
    'The newest known row for each tenant and report date: newest refresh, then longest period. Kept in the facts'' transaction.';

CREATE TABLE m365_store.office365_active_user_counts_superseded (
    tenant_id           uuid        NOT NULL,
    report_date         date        NOT NULL,
    report_refresh_date date        NOT NULL,
    report_period       smallint    NOT NULL,
    office_365          bigint,
    exchange            bigint,
    onedrive            bigint,
    sharepoint          bigint,
    skype_for_business  bigint,
    yammer              bigint,
    teams               bigint,
    extra               jsonb,
    fetched_at          timestamptz NOT NULL,
    revision            integer     NOT NULL,
    superseded_at       timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, report_date, report_refresh_date, report_period, revision)
);
COMMENT ON TABLE m365_store.office365_active_user_counts_superseded IS
    'Whole snapshots that were replaced because the same refresh date was served again with other content.';

INSERT INTO m365_store.schema_change (version, breaking, description) VALUES (1, false, 'store');
