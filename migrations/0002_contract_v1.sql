-- The contract: schema m365_v1, views and one function. What BI tools and people's SQL may rely on.
-- Not breaking.
--
-- Rules: tenant_id is text (a uuid is type OTHER over JDBC); counts are bigint; no float, array, jsonb or enum; every
-- column has a comment; columns are only ever added at the end. Anything else is m365_v2 beside it.
--
-- Every view starts at m365_store.tenant, so that a filter on the text tenant_id picks one tenant there and the big
-- tables are then read by their key. Where a window or an aggregate stands in the way, LATERAL carries it through.

SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '5min';

-- ---- What the contract needs from the store --------------------------------------------------------------------------

CREATE UNIQUE INDEX tenant_by_text ON m365_store.tenant ((tenant_id::text));
CREATE INDEX office365_active_user_counts_current_with_extra
    ON m365_store.office365_active_user_counts_current (tenant_id, report_date) WHERE extra IS NOT NULL;

CREATE TABLE m365_store.program (
    only_row   boolean     NOT NULL PRIMARY KEY DEFAULT true CHECK (only_row),
    version    text        NOT NULL,
    started_at timestamptz NOT NULL
);
COMMENT ON TABLE m365_store.program IS 'The program that started last; outlives its worker row.';

-- Counts of columns that the report's definition does not know. Blank stays null; text is no count and is left out.
CREATE FUNCTION m365_store.extra_counts(extra jsonb) RETURNS TABLE (product text, active_users bigint)
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT e.key, CASE WHEN e.value ~ '^[0-9]{1,18}$' THEN e.value::bigint END
    FROM jsonb_each_text(extra) e
    WHERE coalesce(e.value, '') ~ '^([0-9]{1,18})?$'
$$;
COMMENT ON FUNCTION m365_store.extra_counts(jsonb) IS 'The products in the column extra, by header.';

CREATE SCHEMA m365_v1;
COMMENT ON SCHEMA m365_v1 IS
    'm365-ledger, contract version 1: history of Microsoft 365 usage reports. Read this schema, not m365_store.';

-- ---- Dimensions ------------------------------------------------------------------------------------------------------

CREATE VIEW m365_v1.tenants AS
SELECT t.tenant_id::text AS tenant_id, t.name AS tenant_name, t.cloud FROM m365_store.tenant t;
COMMENT ON VIEW m365_v1.tenants IS 'One row per tenant.';
COMMENT ON COLUMN m365_v1.tenants.tenant_id IS 'The tenant''s directory id, as text. Key.';
COMMENT ON COLUMN m365_v1.tenants.tenant_name IS 'The tenant''s name in the configuration.';
COMMENT ON COLUMN m365_v1.tenants.cloud IS 'The Microsoft cloud it lives in: global, usgov, usgov-dod or china.';

CREATE VIEW m365_v1.products AS
SELECT p.product, p.display_name, p.sort_order, p.is_total, p.is_retired
FROM (VALUES
    ('office_365',         'Microsoft 365 (any product)', 1, true,  false),
    ('exchange',           'Exchange',                    2, false, false),
    ('onedrive',           'OneDrive',                    3, false, false),
    ('sharepoint',         'SharePoint',                  4, false, false),
    ('skype_for_business', 'Skype for Business',          5, false, true),
    ('yammer',             'Yammer (Viva Engage)',        6, false, false),
    ('teams',              'Teams',                       7, false, false)
) AS p (product, display_name, sort_order, is_total, is_retired)
UNION ALL
SELECT DISTINCT e.product, e.product, 1000, false, false
FROM m365_store.office365_active_user_counts_current c, m365_store.extra_counts(c.extra) e
WHERE c.extra IS NOT NULL;
COMMENT ON VIEW m365_v1.products IS
    'One row per product. A product that Microsoft added and this version does not know yet stands under its header.';
COMMENT ON COLUMN m365_v1.products.product IS 'The name used in the other views. Key.';
COMMENT ON COLUMN m365_v1.products.display_name IS 'The name to show to people.';
COMMENT ON COLUMN m365_v1.products.sort_order IS 'Microsoft''s order of columns; 1000 for products this version does not know.';
COMMENT ON COLUMN m365_v1.products.is_total IS
    'True for office_365: users active in any product. It is a union and not the sum of the others.';
COMMENT ON COLUMN m365_v1.products.is_retired IS 'True when Microsoft has shut the product down; its history remains.';

-- ---- Active users ----------------------------------------------------------------------------------------------------

CREATE VIEW m365_v1.active_users_daily AS
SELECT t.tenant_id::text AS tenant_id,
       c.report_date,
       c.report_date::timestamp AT TIME ZONE 'UTC' AS report_time,
       c.office_365, c.exchange, c.onedrive, c.sharepoint, c.skype_for_business, c.yammer, c.teams,
       c.report_refresh_date,
       c.report_refresh_date - c.report_date AS age_days_at_refresh,
       c.report_refresh_date - c.report_date >= 3 AS is_final,
       c.fetched_at,
       t.name AS tenant_name
FROM m365_store.tenant t
JOIN m365_store.office365_active_user_counts_current c ON c.tenant_id = t.tenant_id;
COMMENT ON VIEW m365_v1.active_users_daily IS
    'One row per tenant and day: the newest figures known. May be summed over tenants. Do not sum over days or products.';

CREATE VIEW m365_v1.active_users_daily_long AS
SELECT t.tenant_id::text AS tenant_id,
       c.report_date,
       c.report_date::timestamp AT TIME ZONE 'UTC' AS report_time,
       p.product,
       p.active_users,
       t.name AS tenant_name
FROM m365_store.tenant t
JOIN m365_store.office365_active_user_counts_current c ON c.tenant_id = t.tenant_id
CROSS JOIN LATERAL (
    VALUES ('office_365', c.office_365), ('exchange', c.exchange), ('onedrive', c.onedrive),
           ('sharepoint', c.sharepoint), ('skype_for_business', c.skype_for_business), ('yammer', c.yammer),
           ('teams', c.teams)
    UNION ALL
    SELECT e.product, e.active_users FROM m365_store.extra_counts(c.extra) e
) AS p (product, active_users);
COMMENT ON VIEW m365_v1.active_users_daily_long IS
    'One row per tenant, day and product: the newest figures known. May be summed over tenants. Do not sum over days or products.';
COMMENT ON COLUMN m365_v1.active_users_daily_long.product IS
    'The product, see products. One that this version does not know stands under Microsoft''s header.';
COMMENT ON COLUMN m365_v1.active_users_daily_long.active_users IS
    'Distinct users active on that day. Null: Microsoft gave no figure. Do not sum over days or products.';

CREATE VIEW m365_v1.active_users_snapshots AS
SELECT t.tenant_id::text AS tenant_id,
       f.report_date,
       f.report_refresh_date,
       f.report_period,
       f.report_date::timestamp AT TIME ZONE 'UTC' AS report_time,
       f.office_365, f.exchange, f.onedrive, f.sharepoint, f.skype_for_business, f.yammer, f.teams,
       f.report_refresh_date - f.report_date AS age_days_at_refresh,
       f.report_refresh_date - f.report_date >= 3 AS is_final,
       f.fetched_at,
       t.name AS tenant_name
FROM m365_store.tenant t
JOIN m365_store.office365_active_user_counts f ON f.tenant_id = t.tenant_id;
COMMENT ON VIEW m365_v1.active_users_snapshots IS
    'Everything as fetched: one row per tenant, day, refresh and period. The same day stands here many times: filter on one refresh and one period before adding anything up. Do not sum over days or products.';

-- Runs with its owner's rights, as the views do: the reader has none on the store.
-- One look into the key of the facts for each tenant and day, instead of sorting every refresh there ever was.
CREATE FUNCTION m365_v1.active_users_as_of(as_of date, only_tenant_id text DEFAULT NULL)
RETURNS TABLE (
    tenant_id text, report_date date, report_time timestamptz,
    office_365 bigint, exchange bigint, onedrive bigint, sharepoint bigint, skype_for_business bigint, yammer bigint,
    teams bigint,
    report_refresh_date date, age_days_at_refresh integer, is_final boolean, fetched_at timestamptz, tenant_name text
)
LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp ROWS 10000 AS $$
    SELECT t.tenant_id::text, c.report_date, c.report_date::timestamp AT TIME ZONE 'UTC',
           f.office_365, f.exchange, f.onedrive, f.sharepoint, f.skype_for_business, f.yammer, f.teams,
           f.report_refresh_date, f.report_refresh_date - c.report_date, f.report_refresh_date - c.report_date >= 3,
           f.fetched_at, t.name
    FROM m365_store.tenant t
    JOIN m365_store.office365_active_user_counts_current c ON c.tenant_id = t.tenant_id
    CROSS JOIN LATERAL (
        SELECT * FROM m365_store.office365_active_user_counts x
        WHERE x.tenant_id = c.tenant_id AND x.report_date = c.report_date AND x.report_refresh_date <= as_of
        ORDER BY x.report_refresh_date DESC, x.report_period DESC
        LIMIT 1
    ) f
    WHERE (only_tenant_id IS NULL OR t.tenant_id::text = only_tenant_id) AND c.report_date <= as_of
$$;
COMMENT ON FUNCTION m365_v1.active_users_as_of(date, text) IS
    'active_users_daily as it stood with the refreshes up to that date, for all tenants or for one. Do not sum over days or products.';

CREATE VIEW m365_v1.active_users_revisions AS
SELECT t.tenant_id::text AS tenant_id,
       r.report_date,
       p.product,
       r.report_period,
       r.old_refresh_date,
       r.new_refresh_date,
       p.old_value,
       p.new_value,
       p.new_value - p.old_value AS delta,
       r.kind,
       r.changed_at,
       t.name AS tenant_name
FROM m365_store.tenant t
CROSS JOIN LATERAL (
    SELECT l.report_date, l.report_period, l.old_refresh_date, l.report_refresh_date AS new_refresh_date,
           'refresh' AS kind, l.fetched_at AS changed_at,
           l.o_office_365, l.o_exchange, l.o_onedrive, l.o_sharepoint, l.o_skype_for_business, l.o_yammer, l.o_teams,
           l.o_extra,
           l.office_365, l.exchange, l.onedrive, l.sharepoint, l.skype_for_business, l.yammer, l.teams, l.extra
    FROM (
        SELECT f.*,
               lag(f.report_refresh_date) OVER earlier AS old_refresh_date,
               lag(f.office_365)          OVER earlier AS o_office_365,
               lag(f.exchange)            OVER earlier AS o_exchange,
               lag(f.onedrive)            OVER earlier AS o_onedrive,
               lag(f.sharepoint)          OVER earlier AS o_sharepoint,
               lag(f.skype_for_business)  OVER earlier AS o_skype_for_business,
               lag(f.yammer)              OVER earlier AS o_yammer,
               lag(f.teams)               OVER earlier AS o_teams,
               lag(f.extra)               OVER earlier AS o_extra
        FROM m365_store.office365_active_user_counts f
        WHERE f.tenant_id = t.tenant_id
        WINDOW earlier AS (PARTITION BY f.report_date, f.report_period ORDER BY f.report_refresh_date)
    ) l
    WHERE l.old_refresh_date IS NOT NULL
      AND (l.o_office_365, l.o_exchange, l.o_onedrive, l.o_sharepoint, l.o_skype_for_business, l.o_yammer, l.o_teams,
           l.o_extra)
          IS DISTINCT FROM
          (l.office_365, l.exchange, l.onedrive, l.sharepoint, l.skype_for_business, l.yammer, l.teams, l.extra)
    UNION ALL
    -- A day that only one of two revisions holds counts as blank in the other.
    SELECT coalesce(n.report_date, o.report_date), coalesce(n.report_period, o.report_period),
           coalesce(n.report_refresh_date, o.report_refresh_date),
           coalesce(n.report_refresh_date, o.report_refresh_date),
           'reissue', coalesce(n.fetched_at, o.superseded_at),
           o.office_365, o.exchange, o.onedrive, o.sharepoint, o.skype_for_business, o.yammer, o.teams, o.extra,
           n.office_365, n.exchange, n.onedrive, n.sharepoint, n.skype_for_business, n.yammer, n.teams, n.extra
    FROM (
        SELECT * FROM m365_store.office365_active_user_counts_superseded s WHERE s.tenant_id = t.tenant_id
    ) o
    FULL JOIN (
        SELECT s.report_date, s.report_refresh_date, s.report_period, s.revision, s.fetched_at,
               s.office_365, s.exchange, s.onedrive, s.sharepoint, s.skype_for_business, s.yammer, s.teams, s.extra
        FROM m365_store.office365_active_user_counts_superseded s
        WHERE s.tenant_id = t.tenant_id AND s.revision > 1
        UNION ALL
        SELECT f.report_date, f.report_refresh_date, f.report_period, h.revision, f.fetched_at,
               f.office_365, f.exchange, f.onedrive, f.sharepoint, f.skype_for_business, f.yammer, f.teams, f.extra
        FROM m365_store.snapshot h
        CROSS JOIN LATERAL generate_series(0, h.last_report_date - h.first_report_date) AS d (n)
        JOIN m365_store.office365_active_user_counts f
          ON f.tenant_id = h.tenant_id AND f.report_date = h.first_report_date + d.n
         AND f.report_refresh_date = h.report_refresh_date AND f.report_period = h.report_period
        WHERE h.tenant_id = t.tenant_id AND h.report = 'office365_active_user_counts' AND h.revision > 1
    ) n
      ON n.report_date = o.report_date AND n.report_refresh_date = o.report_refresh_date
     AND n.report_period = o.report_period AND n.revision = o.revision + 1
) r
CROSS JOIN LATERAL (
    VALUES ('office_365', r.o_office_365, r.office_365), ('exchange', r.o_exchange, r.exchange),
           ('onedrive', r.o_onedrive, r.onedrive), ('sharepoint', r.o_sharepoint, r.sharepoint),
           ('skype_for_business', r.o_skype_for_business, r.skype_for_business), ('yammer', r.o_yammer, r.yammer),
           ('teams', r.o_teams, r.teams)
    UNION ALL
    SELECT coalesce(n.product, o.product), o.active_users, n.active_users
    FROM m365_store.extra_counts(r.o_extra) o
    FULL JOIN m365_store.extra_counts(r.extra) n ON n.product = o.product
) AS p (product, old_value, new_value)
WHERE p.old_value IS DISTINCT FROM p.new_value;
COMMENT ON VIEW m365_v1.active_users_revisions IS
    'Every figure that Microsoft changed later: one row per tenant, day, product, period and change. Do not sum over days or products.';
COMMENT ON COLUMN m365_v1.active_users_revisions.product IS 'The product, see products.';
COMMENT ON COLUMN m365_v1.active_users_revisions.old_refresh_date IS 'The refresh that gave the old figure.';
COMMENT ON COLUMN m365_v1.active_users_revisions.new_refresh_date IS 'The refresh that gave the new figure; the same one in a re-issue.';
COMMENT ON COLUMN m365_v1.active_users_revisions.old_value IS 'Active users before. Null: no figure. Do not sum over days or products.';
COMMENT ON COLUMN m365_v1.active_users_revisions.new_value IS 'Active users after. Null: no figure. Do not sum over days or products.';
COMMENT ON COLUMN m365_v1.active_users_revisions.delta IS 'New less old; null when one of them is. Do not sum over days or products.';
COMMENT ON COLUMN m365_v1.active_users_revisions.kind IS
    'refresh: a later refresh date says otherwise. reissue: the same refresh date was served again with other content.';
COMMENT ON COLUMN m365_v1.active_users_revisions.changed_at IS 'When the new figure was fetched.';

CREATE VIEW m365_v1.period_disagreements AS
SELECT t.tenant_id::text AS tenant_id, d.report_date, d.report_refresh_date, d.periods, d.products,
       d.largest_difference, t.name AS tenant_name
FROM m365_store.tenant t
CROSS JOIN LATERAL (
    SELECT g.report_date, g.report_refresh_date, g.periods,
           (SELECT string_agg(v.product, ', ' ORDER BY v.sort_order) FROM (VALUES
               (1, 'office_365', g.office_365), (2, 'exchange', g.exchange), (3, 'onedrive', g.onedrive),
               (4, 'sharepoint', g.sharepoint), (5, 'skype_for_business', g.skype_for_business),
               (6, 'yammer', g.yammer), (7, 'teams', g.teams), (8, 'other columns', g.other_columns)
           ) AS v (sort_order, product, differs) WHERE v.differs) AS products,
           g.largest_difference
    FROM (
        SELECT f.report_date, f.report_refresh_date, count(*) AS periods,
               min(f.office_365) IS DISTINCT FROM max(f.office_365) OR count(f.office_365) NOT IN (0, count(*)) AS office_365,
               min(f.exchange) IS DISTINCT FROM max(f.exchange) OR count(f.exchange) NOT IN (0, count(*)) AS exchange,
               min(f.onedrive) IS DISTINCT FROM max(f.onedrive) OR count(f.onedrive) NOT IN (0, count(*)) AS onedrive,
               min(f.sharepoint) IS DISTINCT FROM max(f.sharepoint) OR count(f.sharepoint) NOT IN (0, count(*)) AS sharepoint,
               min(f.skype_for_business) IS DISTINCT FROM max(f.skype_for_business)
                   OR count(f.skype_for_business) NOT IN (0, count(*)) AS skype_for_business,
               min(f.yammer) IS DISTINCT FROM max(f.yammer) OR count(f.yammer) NOT IN (0, count(*)) AS yammer,
               min(f.teams) IS DISTINCT FROM max(f.teams) OR count(f.teams) NOT IN (0, count(*)) AS teams,
               min(f.extra::text) IS DISTINCT FROM max(f.extra::text) OR count(f.extra) NOT IN (0, count(*)) AS other_columns,
               greatest(max(f.office_365) - min(f.office_365), max(f.exchange) - min(f.exchange),
                        max(f.onedrive) - min(f.onedrive), max(f.sharepoint) - min(f.sharepoint),
                        max(f.skype_for_business) - min(f.skype_for_business), max(f.yammer) - min(f.yammer),
                        max(f.teams) - min(f.teams)) AS largest_difference
        FROM m365_store.office365_active_user_counts f
        WHERE f.tenant_id = t.tenant_id
        GROUP BY f.report_date, f.report_refresh_date
        HAVING count(*) > 1
    ) g
    WHERE g.office_365 OR g.exchange OR g.onedrive OR g.sharepoint OR g.skype_for_business OR g.yammer OR g.teams
       OR g.other_columns
) d;
COMMENT ON VIEW m365_v1.period_disagreements IS
    'One row per tenant, day and refresh for which two periods (D7, D30, D90, D180) do not give the same figures.';
COMMENT ON COLUMN m365_v1.period_disagreements.periods IS 'How many periods of that refresh hold the day.';
COMMENT ON COLUMN m365_v1.period_disagreements.products IS 'The products whose figures differ, as a list in one text.';
COMMENT ON COLUMN m365_v1.period_disagreements.largest_difference IS
    'The largest difference among the products, in users; 0 or null when a figure is blank in one period only.';

-- ---- How the ledger stands -------------------------------------------------------------------------------------------

CREATE VIEW m365_v1.freshness AS
SELECT t.tenant_id::text AS tenant_id,
       g.report,
       g.report_period,
       newest.report_refresh_date AS newest_refresh_date,
       (now() AT TIME ZONE 'UTC')::date - newest.report_refresh_date AS days_behind,
       success.at AS last_success_at,
       extract(epoch FROM now() - success.at)::bigint AS seconds_since_success,
       CASE
           WHEN newest.report_refresh_date IS NULL THEN 'never'
           WHEN extract(epoch FROM now() - success.at) > 2.5 * g.interval_seconds THEN 'stale'
           WHEN (now() AT TIME ZONE 'UTC')::date - newest.report_refresh_date > 5 THEN 'late'
           ELSE 'ok'
       END AS state,
       latest.error_class AS last_error_class,
       latest.finished_at AS last_attempt_at,
       latest.outcome AS last_outcome,
       latest.error_message AS last_error_message,
       due.due_at AS last_due_at,
       CASE WHEN due.outcome IS NULL THEN due.not_before END AS next_try_at,
       (SELECT count(*) FROM m365_store.snapshot s
        WHERE s.tenant_id = g.tenant_id AND s.report = g.report AND s.report_period = g.report_period) AS snapshots,
       g.interval_seconds,
       t.name AS tenant_name
FROM m365_store.tenant t
JOIN m365_store.target g ON g.tenant_id = t.tenant_id
LEFT JOIN LATERAL (
    SELECT s.report_refresh_date, s.fetched_at FROM m365_store.snapshot s
    WHERE s.tenant_id = g.tenant_id AND s.report = g.report AND s.report_period = g.report_period
    ORDER BY s.report_refresh_date DESC LIMIT 1
) newest ON true
LEFT JOIN LATERAL (
    SELECT a.finished_at FROM m365_store.attempt a
    WHERE a.tenant_id = g.tenant_id AND a.report = g.report AND a.report_period = g.report_period
      AND a.outcome IN ('stored', 'unchanged')
    ORDER BY a.finished_at DESC LIMIT 1
) good ON true
-- Attempts are forgotten after a while, snapshots are not.
CROSS JOIN LATERAL (SELECT greatest(good.finished_at, newest.fetched_at)) AS success (at)
LEFT JOIN LATERAL (
    SELECT a.finished_at, a.outcome, a.error_class, a.error_message FROM m365_store.attempt a
    WHERE a.tenant_id = g.tenant_id AND a.report = g.report AND a.report_period = g.report_period
    ORDER BY a.finished_at DESC LIMIT 1
) latest ON true
LEFT JOIN LATERAL (
    SELECT s.due_at, s.outcome, s.not_before FROM m365_store.slot s
    WHERE s.tenant_id = g.tenant_id AND s.report = g.report AND s.report_period = g.report_period
    ORDER BY s.due_at DESC LIMIT 1
) due ON true
WHERE g.enabled;
COMMENT ON VIEW m365_v1.freshness IS 'One row per tenant, report and period that is fetched: how fresh the data are, and why not.';
COMMENT ON COLUMN m365_v1.freshness.newest_refresh_date IS 'The newest refresh date held. Microsoft itself is usually two days behind.';
COMMENT ON COLUMN m365_v1.freshness.days_behind IS 'Days from the newest refresh date to today (UTC).';
COMMENT ON COLUMN m365_v1.freshness.last_success_at IS
    'When the data were last known to be as fresh as Microsoft''s: a snapshot was stored, or nothing had changed.';
COMMENT ON COLUMN m365_v1.freshness.seconds_since_success IS 'Seconds from then to now.';
COMMENT ON COLUMN m365_v1.freshness.state IS
    'never: nothing was ever stored. stale: no success for 2.5 intervals, look at last_error_class. late: we succeed, but Microsoft''s newest refresh is more than 5 days old. ok: none of these.';
COMMENT ON COLUMN m365_v1.freshness.last_error_class IS 'Why the last attempt failed, in one word; null when it did not.';
COMMENT ON COLUMN m365_v1.freshness.last_attempt_at IS 'End of the last attempt.';
COMMENT ON COLUMN m365_v1.freshness.last_outcome IS 'What the last attempt came to: stored, unchanged, empty, rejected, failed or abandoned.';
COMMENT ON COLUMN m365_v1.freshness.last_error_message IS 'Why the last attempt failed, in a sentence.';
COMMENT ON COLUMN m365_v1.freshness.last_due_at IS 'The newest instant at which it was due.';
COMMENT ON COLUMN m365_v1.freshness.next_try_at IS 'When it is tried next; null when nothing is open.';
COMMENT ON COLUMN m365_v1.freshness.snapshots IS 'Snapshots held.';
COMMENT ON COLUMN m365_v1.freshness.interval_seconds IS 'The longest time between two due instants, in seconds.';

CREATE VIEW m365_v1.coverage_gaps AS
SELECT t.tenant_id::text AS tenant_id,
       'office365_active_user_counts' AS report,
       d.before + 1 AS gap_start,
       d.report_date - 1 AS gap_end,
       d.report_date - d.before - 1 AS days,
       t.name AS tenant_name
FROM m365_store.tenant t
CROSS JOIN LATERAL (
    SELECT c.report_date, lag(c.report_date) OVER (ORDER BY c.report_date) AS before
    FROM m365_store.office365_active_user_counts_current c
    WHERE c.tenant_id = t.tenant_id
) d
WHERE d.report_date - d.before > 1;
COMMENT ON VIEW m365_v1.coverage_gaps IS
    'One row per hole: days between a tenant''s first and last report date for which no figure is held.';
COMMENT ON COLUMN m365_v1.coverage_gaps.gap_start IS 'The first missing day.';
COMMENT ON COLUMN m365_v1.coverage_gaps.gap_end IS 'The last missing day.';
COMMENT ON COLUMN m365_v1.coverage_gaps.days IS 'How many days are missing.';

CREATE VIEW m365_v1.ingest_attempts AS
SELECT a.attempt_id::text AS attempt_id,
       t.tenant_id::text AS tenant_id,
       a.report,
       a.report_period,
       a.started_at,
       a.finished_at,
       a.outcome,
       a.error_class,
       a.http_status,
       a.request_id,
       a.rows_inserted::bigint + a.rows_updated + a.rows_unchanged AS row_count,
       a.error_message,
       a.due_at,
       a.report_refresh_date,
       a.rows_inserted,
       a.rows_updated,
       a.rows_unchanged,
       a.graph_calls,
       t.name AS tenant_name
FROM m365_store.tenant t
JOIN m365_store.attempt a ON a.tenant_id = t.tenant_id;
COMMENT ON VIEW m365_v1.ingest_attempts IS 'One row per try at fetching one report. Kept for a limited time.';
COMMENT ON COLUMN m365_v1.ingest_attempts.attempt_id IS 'The attempt, as in the logs. Key.';
COMMENT ON COLUMN m365_v1.ingest_attempts.started_at IS 'When it began.';
COMMENT ON COLUMN m365_v1.ingest_attempts.finished_at IS 'When it ended.';
COMMENT ON COLUMN m365_v1.ingest_attempts.outcome IS
    'stored: a snapshot was written. unchanged: Microsoft served what is held. empty: no rows. rejected: a body was refused whole. failed: no body was obtained or stored. abandoned: the process died.';
COMMENT ON COLUMN m365_v1.ingest_attempts.error_class IS 'Why not, in one word; null after a success.';
COMMENT ON COLUMN m365_v1.ingest_attempts.http_status IS 'The last HTTP status that mattered, if any.';
COMMENT ON COLUMN m365_v1.ingest_attempts.request_id IS 'Microsoft''s request-id, for a support case.';
COMMENT ON COLUMN m365_v1.ingest_attempts.row_count IS 'Rows in the body: inserted, updated and unchanged.';
COMMENT ON COLUMN m365_v1.ingest_attempts.error_message IS 'Why not, in a sentence. Never holds a link or a secret.';
COMMENT ON COLUMN m365_v1.ingest_attempts.due_at IS 'The instant for which it was made.';
COMMENT ON COLUMN m365_v1.ingest_attempts.report_refresh_date IS 'The refresh date it saw.';
COMMENT ON COLUMN m365_v1.ingest_attempts.rows_inserted IS 'Rows that were new.';
COMMENT ON COLUMN m365_v1.ingest_attempts.rows_updated IS 'Rows that took the place of others of the same refresh date.';
COMMENT ON COLUMN m365_v1.ingest_attempts.rows_unchanged IS 'Rows that were held already.';
COMMENT ON COLUMN m365_v1.ingest_attempts.graph_calls IS 'Calls to Microsoft Graph it took from the quota.';

CREATE VIEW m365_v1.contract_info AS
SELECT '1.0'::text AS contract_version,
       (SELECT p.version FROM m365_store.program p) AS program_version,
       (SELECT max(c.version) FROM m365_store.schema_change c) AS schema_version;
COMMENT ON VIEW m365_v1.contract_info IS 'One row: what this contract is and who keeps it.';
COMMENT ON COLUMN m365_v1.contract_info.contract_version IS 'Version of this schema. The first number is that of its name.';
COMMENT ON COLUMN m365_v1.contract_info.program_version IS 'The m365-ledger that started last; null before the first start.';
COMMENT ON COLUMN m365_v1.contract_info.schema_version IS 'The newest migration of the tables behind it.';

-- Columns that mean the same wherever they stand.
DO $$
DECLARE
    col record;
BEGIN
    FOR col IN
        SELECT c.oid::regclass AS of_view, a.attname AS name, w.words
        FROM (VALUES
            ('tenant_id', 'The tenant''s directory id, as text. Joins to tenants.'),
            ('tenant_name', 'The tenant''s name in the configuration.'),
            ('report', 'The report, such as office365_active_user_counts.'),
            ('report_date', 'The day on which the users were active.'),
            ('report_time', 'The same day as a point in time: 00:00 UTC. For tools that want a time axis.'),
            ('report_refresh_date', 'The day on which Microsoft computed the figures.'),
            ('report_period', 'The number of days asked for: 7, 30, 90 or 180. How far back a body reaches, and not over how many days users were counted.'),
            ('office_365', 'Distinct users active on that day in any product: a union, not the sum of the others. Null: Microsoft gave no figure. Do not sum over days or products.'),
            ('exchange', 'Distinct users active in Exchange on that day. Null: Microsoft gave no figure. Do not sum over days or products.'),
            ('onedrive', 'Distinct users active in OneDrive on that day. Null: Microsoft gave no figure. Do not sum over days or products.'),
            ('sharepoint', 'Distinct users active in SharePoint on that day. Null: Microsoft gave no figure. Do not sum over days or products.'),
            ('skype_for_business', 'Distinct users active in Skype for Business (retired) on that day. Null: Microsoft gave no figure. Do not sum over days or products.'),
            ('yammer', 'Distinct users active in Yammer (Viva Engage) on that day. Null: Microsoft gave no figure. Do not sum over days or products.'),
            ('teams', 'Distinct users active in Teams on that day. Null: Microsoft gave no figure. Do not sum over days or products.'),
            ('age_days_at_refresh', 'How many days old the day was when Microsoft computed its figures.'),
            ('is_final', 'True when the day was at least 3 days old by then: Microsoft rarely changes it afterwards.'),
            ('fetched_at', 'When we fetched the figures.')
        ) AS w (name, words)
        JOIN pg_attribute a ON a.attname = w.name AND a.attnum > 0
        JOIN pg_class c ON c.oid = a.attrelid AND c.relnamespace = 'm365_v1'::regnamespace
        WHERE col_description(c.oid, a.attnum) IS NULL
    LOOP
        EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', col.of_view, col.name, col.words);
    END LOOP;
END
$$;

-- ---- Who may read it -------------------------------------------------------------------------------------------------
-- Roles belong to the whole server: another database's migration may create this one at the same moment.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'm365_reader') THEN
        BEGIN
            CREATE ROLE m365_reader NOLOGIN;
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL;
            WHEN insufficient_privilege THEN
                RAISE NOTICE 'role m365_reader was not created: this login may not create roles; docs/queries.md says how to do it by hand';
        END;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'm365_reader') THEN
        GRANT USAGE ON SCHEMA m365_v1 TO m365_reader;
        GRANT SELECT ON ALL TABLES IN SCHEMA m365_v1 TO m365_reader;
        ALTER DEFAULT PRIVILEGES IN SCHEMA m365_v1 GRANT SELECT ON TABLES TO m365_reader;
    END IF;
END
$$;

INSERT INTO m365_store.schema_change (version, breaking, description) VALUES (2, false, 'contract m365_v1');
