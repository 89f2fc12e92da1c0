#!/usr/bin/env bash
# How long the views of m365_v1 take on 12.28 million facts: 100 tenants x 400 daily refreshes x 4 periods, invented by
# SQL in a throw-away PostgreSQL with its stock settings. Asked as a reader with `jit = off`, as docs/queries.md sets one
# up, by psql, rows fetched and thrown away; medians of 5. Takes some minutes on two cores, and 4 GB of disk.
#
#   scripts/bench-bi.sh              all of it
#   TENANTS=5 scripts/bench-bi.sh    less of it; also REFRESHES
#   JIT=on scripts/bench-bi.sh       with PostgreSQL's own setting
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tenants=${TENANTS:-100}
refreshes=${REFRESHES:-400}
if [ "${1:-}" != with-database ]; then
    exec scripts/test-db.sh run scripts/bench-bi.sh with-database
fi

: "${DATABASE_URL:?}"
psql=$(pg_bin)/psql
[ -x "$psql" ] || psql=psql
sql() { PGOPTIONS='-c client_min_messages=warning' "$psql" -qXAt -v ON_ERROR_STOP=1 "$DATABASE_URL" "$@"; }
facts=m365_store.office365_active_user_counts

step "schema"
for migration in migrations/*.sql; do sql --single-transaction -f "$migration"; done

step "$((tenants * refreshes * 307)) facts of $tenants tenants"
began=$SECONDS
sql -v tenants="$tenants" -v refreshes="$refreshes" <<'END'
SET maintenance_work_mem = '512MB';
SET work_mem = '64MB';
INSERT INTO m365_store.tenant
SELECT ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'Tenant ' || n, 'global', now()
FROM generate_series(1, :tenants) n;
INSERT INTO m365_store.target
SELECT tenant_id, 'office365_active_user_counts', p, true, 21600 FROM m365_store.tenant, unnest('{7,30,90,180}'::smallint[]) p;
INSERT INTO m365_store.program VALUES (true, 'bench', now());

-- In the order in which a service writes them: by refresh, then by tenant. The key is made afterwards.
ALTER TABLE m365_store.office365_active_user_counts DROP CONSTRAINT office365_active_user_counts_pkey;
INSERT INTO m365_store.office365_active_user_counts
SELECT t.tenant_id, day.d, r.refresh, p.period,
       f.users, f.users * 95 / 100, f.users * 50 / 100, f.users * 40 / 100, 0,
       CASE WHEN day.weekend THEN NULL ELSE f.users / 80 END,
       -- Here and there D7 says one more than the other periods.
       f.users * 85 / 100 + CASE WHEN p.period = 7 AND a.age = 3 AND (r.refresh - DATE '2001-01-01' + t.number) % 25 = 0 THEN 1 ELSE 0 END,
       NULL, r.refresh + interval '9 hours'
FROM (SELECT (now() AT TIME ZONE 'UTC')::date - 2 - :refreshes + n AS refresh FROM generate_series(1, :refreshes) n) r
CROSS JOIN (SELECT tenant_id, row_number() OVER (ORDER BY tenant_id) AS number FROM m365_store.tenant) t
CROSS JOIN unnest('{7,30,90,180}'::smallint[]) AS p (period)
CROSS JOIN LATERAL generate_series(0, p.period - 1) AS a (age)
CROSS JOIN LATERAL (SELECT r.refresh - a.age, (r.refresh - a.age - DATE '2001-01-01') % 7 > 4) AS day (d, weekend)
CROSS JOIN LATERAL (
    SELECT ((500 + t.number * 37) * CASE WHEN day.weekend THEN 15 ELSE 100 END / 100
            + ((day.d - DATE '2001-01-01') * 31 + t.number * 17) % 40
            - CASE WHEN a.age < 3 THEN (3 - a.age) * 3 ELSE 0 END)::bigint
) AS f (users);
ALTER TABLE m365_store.office365_active_user_counts
    ADD PRIMARY KEY (tenant_id, report_date, report_refresh_date, report_period);

INSERT INTO m365_store.office365_active_user_counts_current
SELECT f.* FROM m365_store.office365_active_user_counts f
WHERE f.report_period = 180
  AND f.report_refresh_date = least((now() AT TIME ZONE 'UTC')::date - 2, f.report_date + 179)
ORDER BY f.report_date, f.tenant_id;

INSERT INTO m365_store.office365_active_user_counts_revised
SELECT n.tenant_id, n.report_date, n.report_refresh_date, n.report_period, 0, o.report_refresh_date, n.fetched_at,
       o.office_365, o.exchange, o.onedrive, o.sharepoint, o.skype_for_business, o.yammer, o.teams, o.extra,
       n.office_365, n.exchange, n.onedrive, n.sharepoint, n.skype_for_business, n.yammer, n.teams, n.extra
FROM m365_store.office365_active_user_counts n
JOIN m365_store.office365_active_user_counts o
  ON (o.tenant_id, o.report_date, o.report_refresh_date, o.report_period)
   = (n.tenant_id, n.report_date, n.report_refresh_date - 1, n.report_period)
WHERE (o.office_365, o.exchange, o.onedrive, o.sharepoint, o.skype_for_business, o.yammer, o.teams)
      IS DISTINCT FROM (n.office_365, n.exchange, n.onedrive, n.sharepoint, n.skype_for_business, n.yammer, n.teams);
INSERT INTO m365_store.office365_active_user_counts_contested
SELECT n.tenant_id, n.report_date, n.report_refresh_date
FROM m365_store.office365_active_user_counts n
JOIN m365_store.office365_active_user_counts o USING (tenant_id, report_date, report_refresh_date)
WHERE n.report_period = 7 AND o.report_period = 30 AND o.teams <> n.teams;

INSERT INTO m365_store.attempt (attempt_id, tenant_id, report, report_period, due_at, worker_id, started_at, finished_at,
    outcome, http_status, graph_calls, report_refresh_date, rows_inserted)
SELECT gen_random_uuid(), g.tenant_id, g.report, g.report_period, at.t, '00000000-0000-0000-0000-000000000001',
       at.t, at.t + interval '1 second', 'stored', 200, 1, at.t::date - 2, g.report_period
FROM m365_store.target g
CROSS JOIN generate_series(0, :refreshes - 1) n
CROSS JOIN LATERAL (SELECT now() - n * interval '1 day' - interval '1 hour') AS at (t);
INSERT INTO m365_store.slot (tenant_id, report, report_period, due_at, origin, not_before, attempts, outcome, closed_at)
SELECT tenant_id, report, report_period, due_at, 'schedule', due_at, 1, outcome, finished_at
FROM m365_store.attempt WHERE due_at > now() - interval '90 days';
INSERT INTO m365_store.snapshot
SELECT a.tenant_id, a.report, a.report_period, a.report_refresh_date, 1, a.report_period,
       a.report_refresh_date - a.report_period + 1, a.report_refresh_date, sha256(a.attempt_id::text::bytea), '{}',
       a.attempt_id, a.finished_at, a.finished_at
FROM m365_store.attempt a;
END
# As autovacuum would leave it. An autovacuum at work keeps pages from being marked as visible to all, and so do commits
# that this server does not wait for.
sql -c "ALTER SYSTEM SET autovacuum = off" -c "ALTER SYSTEM SET synchronous_commit = on" -c "SELECT pg_reload_conf()" >/dev/null
workers="FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'"
while [ "$(sql -c "SELECT count(pg_terminate_backend(pid)) $workers")" != 0 ]; do sleep 0.1; done
sql -c CHECKPOINT -c "VACUUM (ANALYZE)"
hidden=$(sql -c "SELECT coalesce(sum(relpages - relallvisible), 0) FROM pg_class
    WHERE relkind = 'r' AND relnamespace = 'm365_store'::regnamespace")
[ "$hidden" -lt 1000 ] || fail "VACUUM left $hidden pages that index-only scans cannot skip"
say "written in $((SECONDS - began)) s: $(sql -c "SELECT count(*) || ' facts, ' || pg_size_pretty(pg_total_relation_size('$facts')) FROM $facts")"

one=$(sql -c "SELECT tenant_id FROM m365_v1.tenants ORDER BY tenant_id OFFSET $((tenants / 2)) LIMIT 1")
own() { echo "SELECT * FROM ${facts}_revised$1 WHERE tenant_id = '$one'"; }
wrong=$(sql -c "SELECT count(*) FROM (
    ($(own _anew) EXCEPT $(own '')) UNION ALL ($(own '') EXCEPT $(own _anew))) q")
[ "$wrong" = 0 ] || fail "$wrong of the invented revisions do not follow from the facts"
since=$(sql -c "SELECT max(report_date) - 29 FROM m365_v1.active_users_daily")

# ask TARGET_MS QUESTION SQL: the median of five, in ms, beside its target.
ask() {
    local times median rows
    rows=$(sql -c "SET ROLE m365_reader" -c "SELECT count(*) FROM ($3) q")
    times=$(PGOPTIONS="-c jit=${JIT:-off}" "$psql" -qXAt -v ON_ERROR_STOP=1 "$DATABASE_URL" <<END | sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p'
SET ROLE m365_reader;
\\timing on
\\o /dev/null
$3;
$3;
$3;
$3;
$3;
END
    )
    median=$(printf '%s\n' "$times" | sort -n | sed -n 3p)
    printf '%-24s %-34s %8s rows %10s ms   %s\n' "$view" "$2" "$rows" "$median" \
        "$(awk -v t="$1" -v m="$median" 'BEGIN { print t == "-" ? "" : m <= t ? "ok (" t ")" : "OVER " t }')"
}

step "questions (median of 5)"
mine="WHERE tenant_id = '$one'"
for view in tenants products calendar contract_info; do ask 50 "all of it" "SELECT * FROM m365_v1.$view"; done
for view in active_users_daily active_users_daily_long active_users_rolling; do
    ask 50 "one tenant, all time" "SELECT * FROM m365_v1.$view $mine"
    ask 50 "all tenants, last 30 days" "SELECT * FROM m365_v1.$view WHERE report_date >= '$since'"
done
view=active_users_rolling
ask 50 "one tenant, Teams, last year" "SELECT * FROM m365_v1.$view $mine AND product = 'teams' AND report_date > '$since'::date - 336"
ask 50 "all tenants, newest day" "SELECT * FROM m365_v1.$view WHERE report_date = '$since'::date + 29"
for view in active_users_weekly active_users_monthly; do
    case $view in *weekly) start=week_start ;; *) start=month_start ;; esac
    ask 50 "one tenant, all time" "SELECT * FROM m365_v1.$view $mine"
    ask 50 "all tenants, last 30 days" "SELECT * FROM m365_v1.$view WHERE $start >= '$since'"
done
view=active_users_as_of
ask 500 "one tenant, 100 days ago" "SELECT * FROM m365_v1.active_users_as_of('$since'::date - 70, '$one')"
ask 500 "all tenants, 100 days ago" "SELECT * FROM m365_v1.active_users_as_of('$since'::date - 70)"
view=active_users_snapshots
ask 50 "one tenant, D30, last 30 days" "SELECT * FROM m365_v1.$view $mine AND report_period = 30 AND report_date >= '$since'"
ask 50 "one day through all refreshes" "SELECT * FROM m365_v1.$view $mine AND report_date = '$since'::date - 100"
ask - "one tenant, all time, counted" "SELECT count(*) FROM m365_v1.$view $mine"
for view in active_users_revisions period_disagreements; do
    ask 50 "one tenant, last 30 days" "SELECT * FROM m365_v1.$view $mine AND report_date >= '$since'"
    ask 50 "one tenant, all time" "SELECT * FROM m365_v1.$view $mine"
    ask 50 "all tenants, last 30 days" "SELECT * FROM m365_v1.$view WHERE report_date >= '$since'"
done
view=active_users_revisions
ask 50 "the same, D30, how many and large" "SELECT tenant_id, product, count(*), sum(abs(delta)) FROM m365_v1.$view
    WHERE report_date >= '$since' AND report_period = 30 GROUP BY tenant_id, product"
for view in freshness coverage_gaps; do
    ask 50 "one tenant" "SELECT * FROM m365_v1.$view $mine"
    ask 50 "all tenants" "SELECT * FROM m365_v1.$view"
done
view=ingest_attempts
ask 50 "one tenant, all time" "SELECT * FROM m365_v1.$view $mine"
ask 50 "all tenants, last day" "SELECT * FROM m365_v1.$view WHERE finished_at > now() - interval '1 day'"
say "done in $SECONDS s"
