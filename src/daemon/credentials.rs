//! Watching over the ends of credentials, so that they are known before sign-in fails.

use std::{collections::HashSet, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    clock::Clock,
    config::Tenant,
    graph::credential_end,
    telemetry::{metrics, targets::MOST_TENANTS},
};

/// From so long before a credential ends it is warned of.
pub const WARNING: TimeDelta = TimeDelta::days(30);

/// Often enough to see a rotated file before anybody wonders.
const LOOK_EVERY: Duration = Duration::from_hours(1);
/// Every so many looks, the log is told.
const WARN_EVERY: u32 = 24;

/// Until a stop: reads the credentials, exports their ends, and warns once a day of those that end soon.
pub async fn watch(tenants: Vec<Tenant>, clock: Clock, soft: CancellationToken) {
    let mut exported = HashSet::new();
    for look in 0_u32.. {
        let these = tenants.clone();
        // Files, and the arithmetic of a few keys.
        let ends = tokio::task::spawn_blocking(move || ends(&these)).await.unwrap_or_default();
        export(&ends, &mut exported);
        if look.is_multiple_of(WARN_EVERY) {
            warn(&ends, clock.now());
        }
        if soft.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_none() {
            return;
        }
    }
}

/// The known ends, the soonest first. What cannot be read is told by the sign-in that fails of it.
fn ends(tenants: &[Tenant]) -> Vec<(DateTime<Utc>, Uuid)> {
    let mut ends: Vec<_> =
        tenants.iter().filter_map(|tenant| Some((credential_end(tenant).ok().flatten()?, tenant.id))).collect();
    ends.sort_unstable();
    ends
}

/// Exports the soonest, and whatever was exported before: a gauge once set stays.
fn export(ends: &[(DateTime<Utc>, Uuid)], exported: &mut HashSet<Uuid>) {
    exported.extend(ends.iter().take(MOST_TENANTS).map(|(_, tenant)| *tenant));
    for &(end, tenant) in ends.iter().filter(|(_, tenant)| exported.contains(tenant)) {
        metrics::credential_expiry(tenant, end);
    }
}

fn warn(ends: &[(DateTime<Utc>, Uuid)], now: DateTime<Utc>) {
    let soon = ends.iter().take_while(|(end, _)| *end <= now + WARNING).count();
    if let Some((end, tenant)) = ends.first().filter(|_| soon > 0) {
        let when = if *end <= now { "has ended" } else { "ends soon" };
        tracing::warn!(
            %tenant, %end, tenants = soon,
            "a credential {when} ({}); renew it before sign-in fails: Entra ID > App registrations > Certificates & \
             secrets", end.date_naive()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn only_the_soonest_have_series_and_none_goes_stale() {
        let at = |day: i64| DateTime::from_timestamp(day * 86_400, 0).unwrap();
        let many: Vec<_> = (0_u32..150).map(|n| (at(n.into()), Uuid::from_u128(n.into()))).collect();
        let mut exported = HashSet::new();
        let text = Metrics::local(|| {
            export(&many, &mut exported);
            // The first is renewed, and so no longer among the soonest.
            let mut renewed = many[1..].to_vec();
            renewed.push((at(900), Uuid::from_u128(0)));
            export(&renewed, &mut exported);
        })
        .render();
        let value = |n: u128| {
            let series =
                format!("m365_ledger_credential_expiry_timestamp_seconds{{tenant=\"{}\"}} ", Uuid::from_u128(n));
            text.lines().find_map(|line| line.strip_prefix(&series)).map(|value| value.parse::<i64>().unwrap())
        };
        assert_eq!(
            (value(0), value(1), value(100), value(101)),
            (Some(900 * 86_400), Some(86_400), Some(8_640_000), None)
        );
    }
}
