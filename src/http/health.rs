//! What the probes are told. Plain atomics: asking costs nothing and waits for nobody.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// The scheduler's loop turns at least once a minute; three misses in a row and it is taken for dead.
const BEAT_WITHIN: Duration = Duration::from_mins(3);

/// How old the last answer of Postgres may be.
const DATABASE_WITHIN: Duration = Duration::from_secs(30);

/// The state of health, shared between those who report and the probes.
///
/// Measured on the machine's monotonic clock: neither a simulated clock nor a changed wall clock makes a process look
/// dead.
#[derive(Debug)]
pub struct Health {
    born: Instant,
    beat: AtomicU64,
    database: AtomicU64,
    schema_checked: AtomicBool,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            born: Instant::now(),
            beat: AtomicU64::new(0),
            database: AtomicU64::new(0),
            schema_checked: AtomicBool::new(false),
        }
    }
}

impl Health {
    /// The scheduler's loop made a turn. To be called at least once a minute.
    pub fn beat(&self) {
        self.beat.store(self.age(), Ordering::Relaxed);
    }

    /// Postgres answered just now.
    pub fn database_ok(&self) {
        self.database.store(self.age(), Ordering::Relaxed);
    }

    /// The schema is one this program can work with. The scheduler is expected to beat from now on.
    pub fn schema_ok(&self) {
        self.beat();
        self.database_ok();
        self.schema_checked.store(true, Ordering::Release);
    }

    /// Whether the first schema check is done.
    pub fn started(&self) -> Result<(), &'static str> {
        if self.schema_checked.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err("the schema of the database has not been checked yet")
        }
    }

    /// Whether the process makes progress. While it starts, which is to say while it migrates or waits for Postgres, it
    /// counts as alive: a restart would help nobody.
    pub fn live(&self) -> Result<(), &'static str> {
        self.live_at(self.age())
    }

    /// Whether the process can do its work. Does not ask whether it is about to stop.
    pub fn ready(&self) -> Result<(), &'static str> {
        self.ready_at(self.age())
    }

    /// Whether the answer of Postgres is old enough to ask again.
    pub(super) fn database_unsure(&self) -> bool {
        older(self.age(), self.database.load(Ordering::Relaxed), DATABASE_WITHIN / 3)
    }

    fn live_at(&self, age: u64) -> Result<(), &'static str> {
        if self.started().is_ok() && older(age, self.beat.load(Ordering::Relaxed), BEAT_WITHIN) {
            return Err("the scheduler has not moved for three minutes");
        }
        Ok(())
    }

    fn ready_at(&self, age: u64) -> Result<(), &'static str> {
        self.started()?;
        if older(age, self.database.load(Ordering::Relaxed), DATABASE_WITHIN) {
            return Err("Postgres has not answered for 30 seconds");
        }
        Ok(())
    }

    /// Milliseconds since this was made.
    fn age(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

fn older(age: u64, event: u64, than: Duration) -> bool {
    Duration::from_millis(age.saturating_sub(event)) > than
}

#[cfg(test)]
mod tests {
    use super::Health;

    #[test]
    fn a_process_that_starts_is_alive_but_not_ready() {
        let health = Health::default();
        assert!(health.started().is_err());
        assert!(health.live_at(u64::MAX).is_ok(), "a long migration is no reason for a restart");
        assert!(health.ready().is_err());
    }

    #[test]
    fn without_a_beat_it_is_dead_after_three_minutes() {
        let health = Health::default();
        health.schema_ok();
        assert!(health.live_at(179_000).is_ok());
        assert!(health.live_at(181_000).is_err());
        health.beat.store(100_000, std::sync::atomic::Ordering::Relaxed);
        assert!(health.live_at(181_000).is_ok());
    }

    #[test]
    fn without_an_answer_of_postgres_it_is_not_ready_but_alive() {
        let health = Health::default();
        health.schema_ok();
        assert!(health.ready_at(29_000).is_ok());
        assert_eq!(health.ready_at(31_000), Err("Postgres has not answered for 30 seconds"));
        assert!(health.live_at(31_000).is_ok());
        health.database.store(20_000, std::sync::atomic::Ordering::Relaxed);
        assert!(health.ready_at(31_000).is_ok());
    }
}
