//! Starting to stop, stopping, and knowing whether it was a stop or a crash.
//!
//! Two tokens carry the whole protocol. *Soft* means: begin nothing new, end every wait. *Hard* means: drop what is in
//! flight; the transaction rolls back, and the slot is taken up again at the next start. The first signal is soft, and
//! hard follows after the grace; a second signal ends the process at once.

use std::{
    io,
    panic::AssertUnwindSafe,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

/// How long work in flight may take to commit or roll back after a soft stop.
pub const GRACE: Duration = Duration::from_secs(20);

/// How long tasks may take to notice a hard stop before the process goes without them. With [`GRACE`] this stays below
/// the 30 s that Docker (as configured) and Kubernetes wait before they kill.
const LAST_MOMENT: Duration = Duration::from_secs(3);

/// How a run of the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Somebody asked for it.
    Stopped,
    /// A task that must not end ended, or panicked.
    Crashed,
}

impl From<Ended> for ExitCode {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Stopped => Self::SUCCESS,
            Ended::Crashed => Self::FAILURE,
        }
    }
}

/// The life of the process: who runs, who was asked to stop, and how it came out.
#[derive(Debug)]
pub struct Lifecycle {
    soft: CancellationToken,
    hard: CancellationToken,
    tracker: TaskTracker,
    crashed: Arc<AtomicBool>,
    last_moment: Duration,
}

impl Lifecycle {
    /// Takes over SIGTERM and SIGINT; to be called inside the runtime, before anything else is started. As process 1 of
    /// a container a program without handlers would ignore SIGTERM.
    pub fn install() -> io::Result<Self> {
        let (sigterm, sigint) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let life = Self::without_signals(GRACE, LAST_MOMENT);
        tokio::spawn(exit_on_second(sigterm, sigint, life.soft.clone()));
        Ok(life)
    }

    fn without_signals(grace: Duration, last_moment: Duration) -> Self {
        let (soft, hard) = (CancellationToken::new(), CancellationToken::new());
        tokio::spawn(harden(soft.clone(), hard.clone(), grace));
        Self { soft, hard, tracker: TaskTracker::new(), crashed: Arc::default(), last_moment }
    }

    /// Cancelled when nothing new is to be begun: claim no slot, end every wait.
    pub fn soft(&self) -> CancellationToken {
        self.soft.clone()
    }

    /// Cancelled when what is in flight is to be dropped.
    pub fn hard(&self) -> CancellationToken {
        self.hard.clone()
    }

    /// For tasks that [`Lifecycle::finished`] waits for and that may end on their own. Who spawns them also looks at how
    /// they end: a panic here is not a crash of the program.
    pub fn tracker(&self) -> TaskTracker {
        self.tracker.clone()
    }

    /// Runs a task that the program cannot be without, such as the scheduler's loop. If it panics, or ends before anybody
    /// asked for a stop, the program stops softly and [`Lifecycle::finished`] says that it crashed.
    pub fn spawn_vital(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(self.watched(name, task));
    }

    /// As [`Lifecycle::spawn_vital`], for what is to go on during a soft stop, such as the HTTP server: it is not waited
    /// for, and should end with the hard token, which [`Lifecycle::finished`] cancels at its end. Wait for it then.
    pub fn spawn_to_the_end(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        tokio::spawn(self.watched(name, task))
    }

    /// A task that stops the program if it panics or ends unasked.
    fn watched(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (soft, crashed) = (self.soft.clone(), Arc::clone(&self.crashed));
        async move {
            // Unwind safety: the task's state is gone after a panic; nobody looks at it again.
            let panicked = AssertUnwindSafe(task).catch_unwind().await.is_err();
            if panicked || !soft.is_cancelled() {
                let how = if panicked { "panicked" } else { "ended though nobody asked it to" };
                error!(task = name, "stopping: {name} {how}");
                crashed.store(true, Ordering::SeqCst);
                soft.cancel();
            }
        }
    }

    /// Asks for a soft stop, as the first signal does.
    pub fn shutdown(&self) {
        self.soft.cancel();
    }

    /// Waits until a stop was asked for and every task has ended; at the longest the grace and a last moment after that.
    pub async fn finished(self) -> Ended {
        self.tracker.close();
        let all = self.tracker.wait();
        tokio::pin!(all);
        let too_long = async {
            self.hard.cancelled().await;
            tokio::time::sleep(self.last_moment).await;
        };
        tokio::select! {
            () = async { self.soft.cancelled().await; all.await } => {}
            () = too_long => warn!(tasks = self.tracker.len(), "leaving tasks behind that did not stop in time"),
        }
        // Whoever still holds the token, such as a server outside of the tracker, is to stop too.
        self.hard.cancel();
        if self.crashed.load(Ordering::SeqCst) { Ended::Crashed } else { Ended::Stopped }
    }
}

/// Makes the soft stop a hard one after the grace.
async fn harden(soft: CancellationToken, hard: CancellationToken, grace: Duration) {
    soft.cancelled().await;
    tokio::select! {
        () = tokio::time::sleep(grace) => {
            warn!(grace_seconds = grace.as_secs(), "dropping what is in flight: the grace is over");
            hard.cancel();
        }
        () = hard.cancelled() => {}
    }
}

/// The first signal stops softly, the second ends the process.
async fn exit_on_second(mut sigterm: Signal, mut sigint: Signal, soft: CancellationToken) {
    let (name, _) = next(&mut sigterm, &mut sigint).await;
    info!(signal = name, "stopping: finishing what is in flight; a second signal ends at once");
    soft.cancel();
    let (name, code) = next(&mut sigterm, &mut sigint).await;
    warn!(signal = name, "ending at once");
    std::process::exit(code);
}

/// The next signal's name and the exit code a shell would report for it.
async fn next(sigterm: &mut Signal, sigint: &mut Signal) -> (&'static str, i32) {
    tokio::select! {
        _ = sigterm.recv() => ("SIGTERM", 143),
        _ = sigint.recv() => ("SIGINT", 130),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, sleep, timeout};

    use super::{Ended, Lifecycle};

    const LONG: Duration = Duration::from_mins(1);
    const SHORT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_soft_stop_lets_work_in_flight_end() {
        let life = Lifecycle::without_signals(LONG, LONG);
        let (soft, hard) = (life.soft(), life.hard());
        let seen = hard.clone();
        life.spawn_vital("worker", async move {
            soft.cancelled().await;
            sleep(SHORT).await;
            assert!(!seen.is_cancelled(), "dropped while in flight");
        });
        life.shutdown();
        let start = Instant::now();
        assert_eq!(life.finished().await, Ended::Stopped);
        assert!(start.elapsed() >= SHORT);
        assert!(hard.is_cancelled(), "servers outside of the tracker are told too");
    }

    #[tokio::test]
    async fn the_grace_ends_in_a_hard_stop() {
        let life = Lifecycle::without_signals(SHORT, LONG);
        let hard = life.hard();
        life.spawn_vital("stubborn", async move { hard.cancelled().await });
        let start = Instant::now();
        life.shutdown();
        assert_eq!(life.finished().await, Ended::Stopped);
        assert!(start.elapsed() >= SHORT);
    }

    #[tokio::test]
    async fn a_task_that_never_ends_does_not_hold_the_process() {
        let life = Lifecycle::without_signals(SHORT, SHORT);
        life.tracker().spawn(std::future::pending::<()>());
        let start = Instant::now();
        life.shutdown();
        assert_eq!(life.finished().await, Ended::Stopped);
        assert!(start.elapsed() >= 2 * SHORT);
    }

    #[tokio::test]
    async fn a_panic_of_a_vital_task_is_a_crash() {
        let life = Lifecycle::without_signals(LONG, LONG);
        let soft = life.soft();
        life.spawn_vital("fragile", async { panic!("as the test wants it") });
        assert_eq!(life.finished().await, Ended::Crashed);
        assert!(soft.is_cancelled());
    }

    #[tokio::test]
    async fn a_vital_task_that_ends_by_itself_is_a_crash() {
        let life = Lifecycle::without_signals(LONG, LONG);
        life.spawn_vital("short", async {});
        assert_eq!(life.finished().await, Ended::Crashed);
    }

    #[tokio::test]
    async fn a_server_outlives_the_soft_stop_and_its_crash_is_seen() {
        let life = Lifecycle::without_signals(LONG, LONG);
        let (soft, hard) = (life.soft(), life.hard());
        let server = life.spawn_to_the_end("server", async move { hard.cancelled().await });
        life.shutdown();
        assert!(soft.is_cancelled() && !server.is_finished());
        assert_eq!(life.finished().await, Ended::Stopped);
        server.await.unwrap();

        let life = Lifecycle::without_signals(LONG, LONG);
        life.spawn_to_the_end("server", async {});
        assert_eq!(life.finished().await, Ended::Crashed);
    }

    #[tokio::test]
    async fn a_panic_of_another_task_is_not() {
        let life = Lifecycle::without_signals(LONG, LONG);
        let job = life.tracker().spawn(async { panic!("as the test wants it") });
        assert!(job.await.is_err());
        assert!(!life.soft().is_cancelled());
        life.shutdown();
        assert_eq!(life.finished().await, Ended::Stopped);
    }

    #[tokio::test]
    async fn without_a_stop_it_goes_on_even_with_nothing_to_do() {
        let life = Lifecycle::without_signals(LONG, LONG);
        assert!(timeout(SHORT, life.finished()).await.is_err());
    }
}
