-- Trends, the rest of the contract: calendar, active_users_rolling, active_users_weekly, active_users_monthly.
-- Not breaking: only adds.
--
-- None of it is weekly or monthly active users: those count distinct people over the whole time, and cannot be had from
-- daily counts. These are averages and peaks of daily figures.
--
-- A filter on a day, a week or a month must not cost the whole history. It cannot pass through a window function, so a
-- day looks back by one look into the key for each window, which is what RANGE BETWEEN INTERVAL '27 days' PRECEDING
-- says, and a week or a month reads its own days only.

SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '5min';

-- ---- What the contract needs from the store --------------------------------------------------------------------------

CREATE VIEW m365_store.daily_figure AS
SELECT c.tenant_id, c.report_date, p.product, p.active_users
FROM m365_store.office365_active_user_counts_current c
CROSS JOIN LATERAL (
    VALUES ('office_365', c.office_365), ('exchange', c.exchange), ('onedrive', c.onedrive),
           ('sharepoint', c.sharepoint), ('skype_for_business', c.skype_for_business), ('yammer', c.yammer),
           ('teams', c.teams)
    UNION ALL
    SELECT e.product, e.active_users FROM m365_store.extra_counts(c.extra) e
) AS p (product, active_users);
COMMENT ON VIEW m365_store.daily_figure IS 'The current figures, one row per tenant, day and product.';

-- The weeks and months of a span. STRICT keeps the planner from looking inside, so that it believes in 60 of them: what it
-- would guess instead, 1000 for each tenant, makes it compile (JIT) for longer than the answer takes.
CREATE FUNCTION m365_store.week_starts(first_day date, last_day date) RETURNS SETOF date
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE ROWS 60 AS $$
    SELECT d.monday + 7 * n
    FROM (SELECT first_day - (extract(isodow FROM first_day)::integer - 1)) AS d (monday),
         generate_series(0, (last_day - d.monday) / 7) AS n
$$;
COMMENT ON FUNCTION m365_store.week_starts(date, date) IS 'The Mondays of the weeks that these days and those between them are in.';

CREATE FUNCTION m365_store.month_starts(first_day date, last_day date) RETURNS SETOF date
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE ROWS 60 AS $$
    SELECT n::date
    FROM generate_series(date_trunc('month', first_day::timestamp), last_day::timestamp, interval '1 month') AS n
$$;
COMMENT ON FUNCTION m365_store.month_starts(date, date) IS 'The first days of the months that these days and those between them are in.';

-- ---- Calendar --------------------------------------------------------------------------------------------------------

CREATE VIEW m365_v1.calendar AS
SELECT d.date,
       d.date - (extract(isodow FROM d.date)::integer - 1) AS week_start,
       date_trunc('month', d.date::timestamp)::date AS month_start,
       date_trunc('quarter', d.date::timestamp)::date AS quarter_start,
       extract(isoyear FROM d.date)::integer AS iso_year,
       extract(week FROM d.date)::integer AS iso_week,
       extract(isodow FROM d.date)::integer AS day_of_week,
       extract(isodow FROM d.date) > 5 AS is_weekend
FROM (
    SELECT date_trunc('year', min(c.report_date)::timestamp)::date AS first_day,
           (date_trunc('year', max(c.report_date)::timestamp) + interval '1 year')::date AS end_day
    FROM m365_store.office365_active_user_counts_current c
) years
CROSS JOIN LATERAL generate_series(0, years.end_day - years.first_day - 1) AS n (days)
CROSS JOIN LATERAL (SELECT years.first_day + n.days) AS d (date);
COMMENT ON VIEW m365_v1.calendar IS
    'One row per day, without holes: whole years, from that of the first report date held to that of the last. Empty while nothing is held.';
COMMENT ON COLUMN m365_v1.calendar.date IS 'The day. Key; joins to report_date.';
COMMENT ON COLUMN m365_v1.calendar.week_start IS 'The Monday of its week.';
COMMENT ON COLUMN m365_v1.calendar.month_start IS 'The first day of its month.';
COMMENT ON COLUMN m365_v1.calendar.quarter_start IS 'The first day of its quarter.';
COMMENT ON COLUMN m365_v1.calendar.iso_year IS
    'The year its ISO 8601 week belongs to. Around New Year it is not the year of the date.';
COMMENT ON COLUMN m365_v1.calendar.iso_week IS 'The ISO 8601 week, 1 to 53. Only with iso_year.';
COMMENT ON COLUMN m365_v1.calendar.day_of_week IS '1 is Monday, 7 is Sunday.';
COMMENT ON COLUMN m365_v1.calendar.is_weekend IS 'True on Saturday and Sunday.';

-- ---- Rolling averages ------------------------------------------------------------------------------------------------

CREATE VIEW m365_v1.active_users_rolling AS
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
    WHERE o.product = e.product
    GROUP BY e.product
) AS p (product, a7, n7, a28, n28, a20, n20);
COMMENT ON VIEW m365_v1.active_users_rolling IS
    'One row per tenant, day and product: averages of the daily figures of the 7 and 28 days that end on that day. Not weekly or monthly active users, which cannot be derived from daily counts. Do not sum over days or products.';
COMMENT ON COLUMN m365_v1.active_users_rolling.report_date IS 'The last day of the window.';
COMMENT ON COLUMN m365_v1.active_users_rolling.avg_daily_7d IS
    'Average of the daily figures of 7 days. Null until each of them has a figure. Do not sum over days or products.';
COMMENT ON COLUMN m365_v1.active_users_rolling.avg_daily_28d IS
    'Average of the daily figures of 28 days. Null until each of them has a figure. Do not sum over days or products.';
COMMENT ON COLUMN m365_v1.active_users_rolling.weekday_avg_28d IS
    'Average of the daily figures of the 20 days from Monday to Friday among the 28. Null until each of the 20 has a figure; weekends may be blank. Do not sum over days or products.';
COMMENT ON COLUMN m365_v1.active_users_rolling.days_in_7d IS 'How many of the 7 days have a figure.';
COMMENT ON COLUMN m365_v1.active_users_rolling.days_in_28d IS 'How many of the 28 days have a figure.';

-- ---- Weeks and months ------------------------------------------------------------------------------------------------

CREATE VIEW m365_v1.active_users_weekly AS
SELECT t.tenant_id::text AS tenant_id,
       w.week_start,
       w.week_start::timestamp AT TIME ZONE 'UTC' AS report_time,
       p.product,
       (CASE WHEN p.average < 9999999999 THEN p.average END)::numeric(12,2) AS avg_daily_active_users,
       p.peak AS peak_daily_active_users,
       p.peak_date,
       p.days::integer AS days_with_data,
       p.days = 7 AS is_complete,
       t.name AS tenant_name
FROM m365_store.tenant t
CROSS JOIN LATERAL (
    SELECT min(c.report_date) AS first_day, max(c.report_date) AS last_day
    FROM m365_store.office365_active_user_counts_current c
    WHERE c.tenant_id = t.tenant_id
) held
CROSS JOIN LATERAL m365_store.week_starts(held.first_day, held.last_day) AS w (week_start)
CROSS JOIN LATERAL (
    SELECT f.product, avg(f.active_users) AS average, max(f.active_users) AS peak,
           min(f.report_date) FILTER (WHERE f.active_users = f.peak) AS peak_date, count(f.active_users) AS days
    FROM (
        SELECT d.*, max(d.active_users) OVER (PARTITION BY d.product) AS peak
        FROM m365_store.daily_figure d
        WHERE d.tenant_id = t.tenant_id AND d.report_date BETWEEN w.week_start AND w.week_start + 6
    ) f
    GROUP BY f.product
) p;
COMMENT ON VIEW m365_v1.active_users_weekly IS
    'One row per tenant, week (Monday to Sunday) and product: average and peak of the daily figures. Not weekly active users, which cannot be derived from daily counts. Do not sum over weeks or products.';
COMMENT ON COLUMN m365_v1.active_users_weekly.week_start IS 'The Monday. Joins to calendar.';
COMMENT ON COLUMN m365_v1.active_users_weekly.report_time IS
    'The Monday as a point in time: 00:00 UTC. For tools that want a time axis.';
COMMENT ON COLUMN m365_v1.active_users_weekly.days_with_data IS 'How many days of the week have a figure.';
COMMENT ON COLUMN m365_v1.active_users_weekly.is_complete IS
    'True when each of the 7 days has a figure. An average over fewer days, without a weekend for example, does not compare with one over all.';

CREATE VIEW m365_v1.active_users_monthly AS
SELECT t.tenant_id::text AS tenant_id,
       m.month_start,
       m.month_start::timestamp AT TIME ZONE 'UTC' AS report_time,
       p.product,
       (CASE WHEN p.average < 9999999999 THEN p.average END)::numeric(12,2) AS avg_daily_active_users,
       p.peak AS peak_daily_active_users,
       p.peak_date,
       p.days::integer AS days_with_data,
       p.days = (m.month_start + interval '1 month')::date - m.month_start AS is_complete,
       t.name AS tenant_name
FROM m365_store.tenant t
CROSS JOIN LATERAL (
    SELECT min(c.report_date) AS first_day, max(c.report_date) AS last_day
    FROM m365_store.office365_active_user_counts_current c
    WHERE c.tenant_id = t.tenant_id
) held
CROSS JOIN LATERAL m365_store.month_starts(held.first_day, held.last_day) AS m (month_start)
CROSS JOIN LATERAL (
    SELECT f.product, avg(f.active_users) AS average, max(f.active_users) AS peak,
           min(f.report_date) FILTER (WHERE f.active_users = f.peak) AS peak_date, count(f.active_users) AS days
    FROM (
        SELECT d.*, max(d.active_users) OVER (PARTITION BY d.product) AS peak
        FROM m365_store.daily_figure d
        WHERE d.tenant_id = t.tenant_id AND d.report_date >= m.month_start AND d.report_date < (m.month_start + interval '1 month')::date
    ) f
    GROUP BY f.product
) p;
COMMENT ON VIEW m365_v1.active_users_monthly IS
    'One row per tenant, month and product: average and peak of the daily figures. Not monthly active users, which cannot be derived from daily counts. Do not sum over months or products.';
COMMENT ON COLUMN m365_v1.active_users_monthly.month_start IS 'The first day of the month. Joins to calendar.';
COMMENT ON COLUMN m365_v1.active_users_monthly.report_time IS
    'The first day as a point in time: 00:00 UTC. For tools that want a time axis.';
COMMENT ON COLUMN m365_v1.active_users_monthly.days_with_data IS 'How many days of the month have a figure.';
COMMENT ON COLUMN m365_v1.active_users_monthly.is_complete IS
    'True when each day of the month has a figure. An average over fewer days does not compare with one over all.';

-- ---- The contract's version, and columns that mean the same wherever they stand --------------------------------------

CREATE OR REPLACE VIEW m365_v1.contract_info AS
SELECT '1.1'::text AS contract_version,
       (SELECT p.version FROM m365_store.program p) AS program_version,
       (SELECT max(c.version) FROM m365_store.schema_change c) AS schema_version;

DO $$
DECLARE
    col record;
BEGIN
    FOR col IN
        SELECT c.oid::regclass AS of_view, a.attname AS name, w.words
        FROM (VALUES
            ('tenant_id', 'The tenant''s directory id, as text. Joins to tenants.'),
            ('tenant_name', 'The tenant''s name in the configuration.'),
            ('report_time', 'The same day as a point in time: 00:00 UTC. For tools that want a time axis.'),
            ('product', 'The product, see products. One that this version does not know stands under Microsoft''s header.'),
            ('avg_daily_active_users', 'Average of the daily figures, over the days that have one. Null: none has. Not weekly or monthly active users. Do not sum over time or products.'),
            ('peak_daily_active_users', 'The highest daily figure. Null: no day has one. Do not sum over time or products, nor over tenants: their peaks fall on different days.'),
            ('peak_date', 'The day of the peak; the first of them where several are as high.')
        ) AS w (name, words)
        JOIN pg_attribute a ON a.attname = w.name AND a.attnum > 0
        JOIN pg_class c ON c.oid = a.attrelid AND c.relnamespace = 'm365_v1'::regnamespace
        WHERE col_description(c.oid, a.attnum) IS NULL
    LOOP
        EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', col.of_view, col.name, col.words);
    END LOOP;
END
$$;

INSERT INTO m365_store.schema_change (version, breaking, description) VALUES (3, false, 'trends in m365_v1');
