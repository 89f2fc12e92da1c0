-- What was revised, and where periods may disagree, as tables: kept in the facts' transaction, as the current rows are.
-- Asking the facts instead took a second where a tenant has twelve million of them around it, and more with every year.
-- Breaking: an older program would write facts and leave these tables behind.

SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '1h';
SET LOCAL work_mem = '128MB';

-- ---- Tables ----------------------------------------------------------------------------------------------------------

CREATE TABLE m365_store.office365_active_user_counts_revised (
    tenant_id              uuid        NOT NULL,
    report_date            date        NOT NULL,
    report_refresh_date    date        NOT NULL,
    report_period          smallint    NOT NULL,
    reissue                integer     NOT NULL,
    old_refresh_date       date        NOT NULL,
    changed_at             timestamptz NOT NULL,
    old_office_365         bigint,
    old_exchange           bigint,
    old_onedrive           bigint,
    old_sharepoint         bigint,
    old_skype_for_business bigint,
    old_yammer             bigint,
    old_teams              bigint,
    old_extra              jsonb,
    office_365             bigint,
    exchange               bigint,
    onedrive               bigint,
    sharepoint             bigint,
    skype_for_business     bigint,
    yammer                 bigint,
    teams                  bigint,
    extra                  jsonb,
    PRIMARY KEY (tenant_id, report_date, report_refresh_date, report_period, reissue)
);
CREATE INDEX office365_active_user_counts_revised_by_date
    ON m365_store.office365_active_user_counts_revised (report_date);
COMMENT ON TABLE m365_store.office365_active_user_counts_revised IS
    'Days whose figures are others than before, with both. Follows from the facts and the superseded rows alone: see …_revised_anew.';
COMMENT ON COLUMN m365_store.office365_active_user_counts_revised.reissue IS
    '0: the refresh before, of the same period, said otherwise. n: revision n of this very snapshot did.';

CREATE TABLE m365_store.office365_active_user_counts_contested (
    tenant_id           uuid NOT NULL,
    report_date         date NOT NULL,
    report_refresh_date date NOT NULL,
    PRIMARY KEY (tenant_id, report_date, report_refresh_date)
);
CREATE INDEX office365_active_user_counts_contested_by_date
    ON m365_store.office365_active_user_counts_contested (report_date);
COMMENT ON TABLE m365_store.office365_active_user_counts_contested IS
    'Days of a refresh on which its periods may disagree. A day too many does no harm: whether they do is looked up in the facts.';

-- ---- The revisions, from the facts -----------------------------------------------------------------------------------

CREATE VIEW m365_store.office365_active_user_counts_revised_anew AS
SELECT t.tenant_id, r.*
FROM m365_store.tenant t
CROSS JOIN LATERAL (
    SELECT l.report_date, l.report_refresh_date, l.report_period, 0 AS reissue, l.old_refresh_date,
           l.fetched_at AS changed_at,
           l.old_office_365, l.old_exchange, l.old_onedrive, l.old_sharepoint, l.old_skype_for_business,
           l.old_yammer, l.old_teams, l.old_extra,
           l.office_365, l.exchange, l.onedrive, l.sharepoint, l.skype_for_business, l.yammer, l.teams,
           l.extra
    FROM (
        SELECT f.*,
               lag(f.report_refresh_date) OVER earlier AS old_refresh_date,
               lag(f.office_365) OVER earlier AS old_office_365,
               lag(f.exchange) OVER earlier AS old_exchange,
               lag(f.onedrive) OVER earlier AS old_onedrive,
               lag(f.sharepoint) OVER earlier AS old_sharepoint,
               lag(f.skype_for_business) OVER earlier AS old_skype_for_business,
               lag(f.yammer) OVER earlier AS old_yammer,
               lag(f.teams) OVER earlier AS old_teams,
               lag(f.extra) OVER earlier AS old_extra
        FROM m365_store.office365_active_user_counts f
        WHERE f.tenant_id = t.tenant_id
        WINDOW earlier AS (PARTITION BY f.report_date, f.report_period ORDER BY f.report_refresh_date)
    ) l
    WHERE l.old_refresh_date IS NOT NULL
      AND (l.old_office_365, l.old_exchange, l.old_onedrive, l.old_sharepoint, l.old_skype_for_business,
           l.old_yammer, l.old_teams, l.old_extra)
          IS DISTINCT FROM
          (l.office_365, l.exchange, l.onedrive, l.sharepoint, l.skype_for_business, l.yammer, l.teams,
           l.extra)
    UNION ALL
    -- A day that only one of two revisions holds counts as blank in the other.
    SELECT coalesce(n.report_date, o.report_date), coalesce(n.report_refresh_date, o.report_refresh_date),
           coalesce(n.report_period, o.report_period), coalesce(o.revision, n.revision - 1),
           coalesce(n.report_refresh_date, o.report_refresh_date), coalesce(n.fetched_at, o.superseded_at),
           o.office_365, o.exchange, o.onedrive, o.sharepoint, o.skype_for_business, o.yammer, o.teams,
           o.extra,
           n.office_365, n.exchange, n.onedrive, n.sharepoint, n.skype_for_business, n.yammer, n.teams,
           n.extra
    FROM (
        SELECT * FROM m365_store.office365_active_user_counts_superseded s WHERE s.tenant_id = t.tenant_id
    ) o
    FULL JOIN (
        SELECT s.report_date, s.report_refresh_date, s.report_period, s.revision, s.fetched_at,
               s.office_365, s.exchange, s.onedrive, s.sharepoint, s.skype_for_business, s.yammer, s.teams,
           s.extra
        FROM m365_store.office365_active_user_counts_superseded s
        WHERE s.tenant_id = t.tenant_id AND s.revision > 1
        UNION ALL
        SELECT f.report_date, f.report_refresh_date, f.report_period, h.revision, f.fetched_at,
               f.office_365, f.exchange, f.onedrive, f.sharepoint, f.skype_for_business, f.yammer, f.teams,
           f.extra
        FROM m365_store.snapshot h
        CROSS JOIN LATERAL generate_series(0, h.last_report_date - h.first_report_date) AS d (n)
        JOIN m365_store.office365_active_user_counts f
          ON f.tenant_id = h.tenant_id AND f.report_date = h.first_report_date + d.n
         AND f.report_refresh_date = h.report_refresh_date AND f.report_period = h.report_period
        WHERE h.tenant_id = t.tenant_id AND h.report = 'office365_active_user_counts' AND h.revision > 1
    ) n
      ON n.report_date = o.report_date AND n.report_refresh_date = o.report_refresh_date
     AND n.report_period = o.report_period AND n.revision = o.revision + 1
    WHERE (o.office_365, o.exchange, o.onedrive, o.sharepoint, o.skype_for_business, o.yammer, o.teams,
           o.extra)
          IS DISTINCT FROM
          (n.office_365, n.exchange, n.onedrive, n.sharepoint, n.skype_for_business, n.yammer, n.teams,
           n.extra)
) r;
COMMENT ON VIEW m365_store.office365_active_user_counts_revised_anew IS
    'What …_revised must hold, computed from the facts and the superseded rows. Filter on a tenant.';

-- ---- What is there already -------------------------------------------------------------------------------------------

INSERT INTO m365_store.office365_active_user_counts_revised
TABLE m365_store.office365_active_user_counts_revised_anew;
INSERT INTO m365_store.office365_active_user_counts_contested
SELECT d.tenant_id::uuid, d.report_date, d.report_refresh_date FROM m365_v1.period_disagreements d;

-- ---- The contract: the same columns and rows, from these tables -------------------------------------------------------

CREATE OR REPLACE VIEW m365_v1.active_users_revisions AS
SELECT t.tenant_id::text AS tenant_id,
       r.report_date,
       p.product,
       r.report_period,
       r.old_refresh_date,
       r.report_refresh_date AS new_refresh_date,
       p.old_value,
       p.new_value,
       p.new_value - p.old_value AS delta,
       CASE WHEN r.reissue = 0 THEN 'refresh' ELSE 'reissue' END AS kind,
       r.changed_at,
       t.name AS tenant_name
FROM m365_store.tenant t
JOIN m365_store.office365_active_user_counts_revised r ON r.tenant_id = t.tenant_id
CROSS JOIN LATERAL (
    VALUES ('office_365', r.old_office_365, r.office_365),
           ('exchange', r.old_exchange, r.exchange),
           ('onedrive', r.old_onedrive, r.onedrive),
           ('sharepoint', r.old_sharepoint, r.sharepoint),
           ('skype_for_business', r.old_skype_for_business, r.skype_for_business),
           ('yammer', r.old_yammer, r.yammer),
           ('teams', r.old_teams, r.teams)
    UNION ALL
    SELECT coalesce(n.product, o.product), o.active_users, n.active_users
    FROM m365_store.extra_counts(r.old_extra) o
    FULL JOIN m365_store.extra_counts(r.extra) n ON n.product = o.product
    WHERE r.old_extra IS NOT NULL OR r.extra IS NOT NULL
) AS p (product, old_value, new_value)
WHERE p.old_value IS DISTINCT FROM p.new_value;

CREATE OR REPLACE VIEW m365_v1.period_disagreements AS
SELECT t.tenant_id::text AS tenant_id, k.report_date, k.report_refresh_date, d.periods, d.products,
       d.largest_difference, t.name AS tenant_name
FROM m365_store.tenant t
JOIN m365_store.office365_active_user_counts_contested k ON k.tenant_id = t.tenant_id
CROSS JOIN LATERAL (
    SELECT g.periods,
           (SELECT string_agg(v.product, ', ' ORDER BY v.sort_order) FROM (VALUES
               (1, 'office_365', g.office_365), (2, 'exchange', g.exchange), (3, 'onedrive', g.onedrive),
               (4, 'sharepoint', g.sharepoint), (5, 'skype_for_business', g.skype_for_business),
               (6, 'yammer', g.yammer), (7, 'teams', g.teams), (8, 'other columns', g.other_columns)
           ) AS v (sort_order, product, differs) WHERE v.differs) AS products,
           g.largest_difference
    FROM (
        SELECT count(*) AS periods,
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
        WHERE f.tenant_id = k.tenant_id AND f.report_date = k.report_date AND f.report_refresh_date = k.report_refresh_date
        HAVING count(*) > 1
    ) g
    WHERE g.office_365 OR g.exchange OR g.onedrive OR g.sharepoint OR g.skype_for_business OR g.yammer OR g.teams
       OR g.other_columns
) d;

CREATE OR REPLACE VIEW m365_v1.active_users_rolling AS
SELECT t.tenant_id::text AS tenant_id,
       c.report_date,
       c.report_date::timestamp AT TIME ZONE 'UTC' AS report_time,
       p.product,
       -- Who has more users than numeric(12,2) holds has no average; the view goes on for the others.
       (CASE WHEN p.n7 = 7 AND p.a7 < 9999999999 THEN p.a7 END)::numeric(12,2) AS avg_daily_7d,
       (CASE WHEN p.n28 = 28 AND p.a28 < 9999999999 THEN p.a28 END)::numeric(12,2) AS avg_daily_28d,
       (CASE WHEN p.n20 = 20 AND p.a20 < 9999999999 THEN p.a20 END)::numeric(12,2) AS weekday_avg_28d,
       p.n7::integer AS days_in_7d,
       p.n28::integer AS days_in_28d,
       t.name AS tenant_name
FROM m365_store.tenant t
JOIN m365_store.office365_active_user_counts_current c ON c.tenant_id = t.tenant_id
CROSS JOIN LATERAL (
    SELECT avg(d.office_365) FILTER (WHERE d.recent) AS a7_office_365, count(d.office_365) FILTER (WHERE d.recent) AS n7_office_365,
           avg(d.office_365) AS a28_office_365, count(d.office_365) AS n28_office_365,
           avg(d.office_365) FILTER (WHERE d.weekday) AS a20_office_365, count(d.office_365) FILTER (WHERE d.weekday) AS n20_office_365,
           avg(d.exchange) FILTER (WHERE d.recent) AS a7_exchange, count(d.exchange) FILTER (WHERE d.recent) AS n7_exchange,
           avg(d.exchange) AS a28_exchange, count(d.exchange) AS n28_exchange,
           avg(d.exchange) FILTER (WHERE d.weekday) AS a20_exchange, count(d.exchange) FILTER (WHERE d.weekday) AS n20_exchange,
           avg(d.onedrive) FILTER (WHERE d.recent) AS a7_onedrive, count(d.onedrive) FILTER (WHERE d.recent) AS n7_onedrive,
           avg(d.onedrive) AS a28_onedrive, count(d.onedrive) AS n28_onedrive,
           avg(d.onedrive) FILTER (WHERE d.weekday) AS a20_onedrive, count(d.onedrive) FILTER (WHERE d.weekday) AS n20_onedrive,
           avg(d.sharepoint) FILTER (WHERE d.recent) AS a7_sharepoint, count(d.sharepoint) FILTER (WHERE d.recent) AS n7_sharepoint,
           avg(d.sharepoint) AS a28_sharepoint, count(d.sharepoint) AS n28_sharepoint,
           avg(d.sharepoint) FILTER (WHERE d.weekday) AS a20_sharepoint, count(d.sharepoint) FILTER (WHERE d.weekday) AS n20_sharepoint,
           avg(d.skype_for_business) FILTER (WHERE d.recent) AS a7_skype_for_business, count(d.skype_for_business) FILTER (WHERE d.recent) AS n7_skype_for_business,
           avg(d.skype_for_business) AS a28_skype_for_business, count(d.skype_for_business) AS n28_skype_for_business,
           avg(d.skype_for_business) FILTER (WHERE d.weekday) AS a20_skype_for_business, count(d.skype_for_business) FILTER (WHERE d.weekday) AS n20_skype_for_business,
           avg(d.yammer) FILTER (WHERE d.recent) AS a7_yammer, count(d.yammer) FILTER (WHERE d.recent) AS n7_yammer,
           avg(d.yammer) AS a28_yammer, count(d.yammer) AS n28_yammer,
           avg(d.yammer) FILTER (WHERE d.weekday) AS a20_yammer, count(d.yammer) FILTER (WHERE d.weekday) AS n20_yammer,
           avg(d.teams) FILTER (WHERE d.recent) AS a7_teams, count(d.teams) FILTER (WHERE d.recent) AS n7_teams,
           avg(d.teams) AS a28_teams, count(d.teams) AS n28_teams,
           avg(d.teams) FILTER (WHERE d.weekday) AS a20_teams, count(d.teams) FILTER (WHERE d.weekday) AS n20_teams
    FROM (
        -- 1 January 2001 was a Monday. extract() would cost a numeric for every day of every window.
        SELECT x.*, x.report_date > c.report_date - 7 AS recent, (x.report_date - DATE '2001-01-01') % 7 < 5 AS weekday
        FROM m365_store.office365_active_user_counts_current x
        WHERE x.tenant_id = c.tenant_id AND x.report_date BETWEEN c.report_date - 27 AND c.report_date
    ) d
) w
CROSS JOIN LATERAL (
    VALUES ('office_365', w.a7_office_365, w.n7_office_365, w.a28_office_365, w.n28_office_365,
            w.a20_office_365, w.n20_office_365),
           ('exchange', w.a7_exchange, w.n7_exchange, w.a28_exchange, w.n28_exchange,
            w.a20_exchange, w.n20_exchange),
           ('onedrive', w.a7_onedrive, w.n7_onedrive, w.a28_onedrive, w.n28_onedrive,
            w.a20_onedrive, w.n20_onedrive),
           ('sharepoint', w.a7_sharepoint, w.n7_sharepoint, w.a28_sharepoint, w.n28_sharepoint,
            w.a20_sharepoint, w.n20_sharepoint),
           ('skype_for_business', w.a7_skype_for_business, w.n7_skype_for_business, w.a28_skype_for_business, w.n28_skype_for_business,
            w.a20_skype_for_business, w.n20_skype_for_business),
           ('yammer', w.a7_yammer, w.n7_yammer, w.a28_yammer, w.n28_yammer,
            w.a20_yammer, w.n20_yammer),
           ('teams', w.a7_teams, w.n7_teams, w.a28_teams, w.n28_teams,
            w.a20_teams, w.n20_teams)
    UNION ALL
    SELECT e.product,
           avg(o.active_users) FILTER (WHERE x.report_date > c.report_date - 7),
           count(o.active_users) FILTER (WHERE x.report_date > c.report_date - 7),
           avg(o.active_users), count(o.active_users),
           avg(o.active_users) FILTER (WHERE (x.report_date - DATE '2001-01-01') % 7 < 5),
           count(o.active_users) FILTER (WHERE (x.report_date - DATE '2001-01-01') % 7 < 5)
    FROM m365_store.extra_counts(c.extra) e
    JOIN m365_store.office365_active_user_counts_current x
      ON x.tenant_id = c.tenant_id AND x.report_date BETWEEN c.report_date - 27 AND c.report_date
     AND x.extra IS NOT NULL
    CROSS JOIN LATERAL m365_store.extra_counts(x.extra) o
    -- No look at the windows of days that have no such columns.
    WHERE c.extra IS NOT NULL AND o.product = e.product
    GROUP BY e.product
) AS p (product, a7, n7, a28, n28, a20, n20);

INSERT INTO m365_store.schema_change (version, breaking, description)
VALUES (4, true, 'revisions and contested days as tables');
