//! The policy in force and the one way to change it: compile → publish → wait until live.
//!
//! Two locks, so that nobody waits for what is slow: one serialises changes while they compile,
//! the other is held for moments to look at what is in force, or to replace it. No lock is held
//! while a change waits for the workers: a worker that is late holds up its own change only.

use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::clock::MonotonicClock;
use crate::compile::{CompileError, Compiler};
use crate::policy::Policy;
use crate::snapshot::{Publisher, Snapshot, SnapshotStats};
use crate::sync::Arc;
use crate::types::{Generation, WorkerId};

/// Pause between two looks at the workers' reports: first and longest.
const POLL_PAUSE_MIN: Duration = Duration::from_micros(10);
const POLL_PAUSE_MAX: Duration = Duration::from_millis(1);

/// It is published, but some workers have not taken it up in time.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "generation {generation} is published, but {} not taken it up within {timeout:?}",
    have(.workers)
)]
pub struct NotLive {
    /// The new generation.
    pub generation: Generation,
    /// Who does not use it.
    pub workers: Vec<WorkerId>,
    /// How long was waited.
    pub timeout: Duration,
}

fn have(workers: &[WorkerId]) -> String {
    let mut text = "worker".to_owned();
    for (index, worker) in workers.iter().enumerate() {
        let before = if index == 0 { "" } else { "," };
        // Writing to a string cannot fail.
        let _infallible = write!(text, "{before} {}", worker.0);
    }
    text.push_str(if workers.len() == 1 { " has" } else { " have" });
    text
}

/// The policy in force, and what changes it.
#[derive(Debug)]
pub struct PolicyState {
    /// Locked while a change is made, before `current`.
    compiler: Mutex<Compiler>,
    current: Mutex<Current>,
    links: Vec<String>,
}

#[derive(Debug)]
struct Current {
    policy: Arc<Policy>,
    publisher: Publisher,
    compile_time: Duration,
}

/// What a policy that was published replaced.
#[derive(Debug)]
pub struct Published {
    /// Its generation.
    pub generation: Generation,
    /// The policy before it; the same content where nothing changed.
    pub before: Arc<Policy>,
    /// The same content was in force already, and keeps its generation.
    pub unchanged: bool,
}

/// One look at what is in force.
#[derive(Debug)]
pub struct View {
    /// The policy in force.
    pub generation: Generation,
    /// Each worker, the generation that it uses, and whether it sleeps. One that wakes just now is
    /// given the one in force: it was up to date in its sleep, and loads before its next frame.
    pub generations: Vec<(WorkerId, Generation, bool)>,
    /// Sizes of the snapshot.
    pub stats: SnapshotStats,
    /// How long the last compilation took.
    pub compile_time: Duration,
}

impl PolicyState {
    /// Compiles the first policy. Whoever starts the workers gives the snapshot to a
    /// [`Publisher`] and that to [`PolicyState::new`].
    ///
    /// # Errors
    /// Where it exceeds a limit of the compiled form.
    pub fn compile_first(
        policy: &Policy,
        links: &[String],
        clock: &MonotonicClock,
    ) -> Result<(Compiler, Snapshot, Duration), CompileError> {
        let started = clock.now();
        let mut compiler = Compiler::new();
        let names: Vec<&str> = links.iter().map(String::as_str).collect();
        let snapshot = compiler.compile(policy, &names, Generation::default().next())?;
        Ok((compiler, snapshot, clock.now().since(started)))
    }

    /// The state once the first snapshot is published.
    #[must_use]
    pub fn new(
        policy: Policy,
        compiler: Compiler,
        publisher: Publisher,
        links: Vec<String>,
        compile_time: Duration,
    ) -> Self {
        Self {
            compiler: Mutex::new(compiler),
            current: Mutex::new(Current {
                policy: Arc::new(policy),
                publisher,
                compile_time,
            }),
            links,
        }
    }

    /// Publishes a policy. The same content again keeps its generation. `swept`: up to which
    /// generation no worker has a flow left that lost its address.
    ///
    /// # Errors
    /// Where it exceeds a limit of the compiled form; nothing has changed then.
    pub fn publish(
        &self,
        policy: Policy,
        swept: Generation,
        clock: &MonotonicClock,
    ) -> Result<Published, CompileError> {
        let mut compiler = lock(&self.compiler);
        // Only who holds the compiler changes these.
        let (before, generation) = {
            let current = lock(&self.current);
            let generation = current.publisher.current().generation();
            (Arc::clone(&current.policy), generation)
        };
        if policy == *before {
            return Ok(Published {
                generation,
                before,
                unchanged: true,
            });
        }
        let started = clock.now();
        compiler.forget_changes(swept);
        let snapshot = compiler.compile(&policy, &self.link_names(), generation.next())?;
        let compile_time = clock.now().since(started);
        let mut current = lock(&self.current);
        let generation = current.publisher.publish(Arc::new(snapshot));
        current.policy = Arc::new(policy);
        current.compile_time = compile_time;
        Ok(Published {
            generation,
            before,
            unchanged: false,
        })
    }

    /// Waits until every worker uses a generation or a later one, or sleeps: a sleeper loads what
    /// is current before its next frame.
    ///
    /// # Errors
    /// Names those that do not after `timeout`.
    pub fn wait_live(
        &self,
        generation: Generation,
        timeout: Duration,
        clock: &MonotonicClock,
    ) -> Result<(), NotLive> {
        let started = clock.now();
        let mut pause = POLL_PAUSE_MIN;
        loop {
            let workers = self.late(generation);
            if workers.is_empty() {
                return Ok(());
            }
            if clock.now().since(started) >= timeout {
                return Err(NotLive {
                    generation,
                    workers,
                    timeout,
                });
            }
            thread::sleep(pause);
            pause = pause.saturating_mul(2).min(POLL_PAUSE_MAX);
        }
    }

    /// Workers that still use an earlier generation; frees what nobody uses any more.
    fn late(&self, generation: Generation) -> Vec<WorkerId> {
        let mut current = lock(&self.current);
        current.publisher.retire();
        let generations = current.publisher.generations();
        let late = generations
            .into_iter()
            .filter(|(_, used, _)| *used < generation);
        late.map(|(worker, _, _)| worker).collect()
    }

    /// Runs `action` while a generation is in force and cannot be replaced; `None` where another
    /// is in force already.
    pub fn while_in_force<T>(
        &self,
        generation: Generation,
        action: impl FnOnce() -> T,
    ) -> Option<T> {
        let _no_change = lock(&self.compiler);
        let in_force = self.snapshot().generation();
        (in_force == generation).then(action)
    }

    /// Compiles a policy as if it came into force next, and publishes nothing.
    ///
    /// # Errors
    /// Where it exceeds a limit of the compiled form.
    pub fn try_compile(&self, policy: &Policy) -> Result<Snapshot, CompileError> {
        let mut compiler = lock(&self.compiler).clone();
        let generation = self.snapshot().generation().next();
        compiler.compile(policy, &self.link_names(), generation)
    }

    fn link_names(&self) -> Vec<&str> {
        self.links.iter().map(String::as_str).collect()
    }

    /// What is in force, who uses it, and how large it is.
    #[must_use]
    pub fn view(&self) -> View {
        let mut current = lock(&self.current);
        current.publisher.retire();
        let snapshot = current.publisher.current();
        let generation = snapshot.generation();
        let mut generations = current.publisher.generations();
        for (_, used, _) in &mut generations {
            // Reported by one that wakes: whoever waits for it has to wait on, people need not.
            if *used == Generation(0) {
                *used = generation;
            }
        }
        View {
            generation,
            generations,
            stats: snapshot.stats(),
            compile_time: current.compile_time,
        }
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&lock(&self.current).policy)
    }

    /// Its compiled form.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(lock(&self.current).publisher.current())
    }

    /// Names of the links, by [`crate::types::LinkId`].
    #[must_use]
    pub fn links(&self) -> &[String] {
        &self.links
    }
}

/// A panic in a control thread ends the process in release builds; elsewhere the state is still
/// whole, since it is changed in one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Source;
    use crate::policy::{self, KnownLinks};
    use crate::snapshot::SnapshotReader;

    fn parse(port: u16) -> Policy {
        let text = format!(
            "[security_groups.web]\ndescription = \"web\"\n\
             ingress = [{{ protocol = \"tcp\", ports = {port}, from = [\"10.0.0.0/8\"] }}]\n\
             [interfaces.a]\naddresses = [\"10.0.1.10\"]\ngroups = [\"web\"]\n"
        );
        let source = Source::from_bytes("policy.toml", text.into_bytes()).unwrap();
        policy::parse(&source, KnownLinks::Unknown).unwrap().value
    }

    /// A state in generation 1, and two workers that never took it up.
    fn state() -> (PolicyState, Vec<SnapshotReader>, MonotonicClock) {
        let clock = MonotonicClock::start();
        let links = vec!["uplink".to_owned()];
        let (compiler, snapshot, time) =
            PolicyState::compile_first(&parse(80), &links, &clock).unwrap();
        let (publisher, readers) = Publisher::new(Arc::new(snapshot), 2);
        let state = PolicyState::new(parse(80), compiler, publisher, links, time);
        (state, readers, clock)
    }

    #[test]
    fn a_late_worker_is_named_and_holds_up_nobody_else() {
        let (state, mut readers, clock) = state();
        readers[0].load();
        readers[1].load();
        let second = state
            .publish(parse(81), Generation(0), &clock)
            .unwrap()
            .generation;
        readers[0].load();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| state.wait_live(second, Duration::from_secs(60), &clock));
            let late = state.wait_live(second, Duration::ZERO, &clock).unwrap_err();
            assert_eq!(late.workers, [WorkerId(1)]);
            assert_eq!(
                late.to_string(),
                "generation 2 is published, but worker 1 has not taken it up within 0ns"
            );
            let view = state.view();
            assert_eq!(
                (view.generation, view.generations[1].1),
                (second, Generation(1))
            );
            let third = state
                .publish(parse(82), Generation(0), &clock)
                .unwrap()
                .generation;
            assert_eq!(third, Generation(3));
            readers[1].begin_sleep();
            waiting.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_worker_that_wakes_is_waited_for_and_shown_as_up_to_date() {
        let (state, mut readers, clock) = state();
        readers[0].load();
        readers[1].begin_sleep();
        let second = state
            .publish(parse(81), Generation(0), &clock)
            .unwrap()
            .generation;
        readers[0].load();
        readers[1].end_sleep();
        let late = state.wait_live(second, Duration::ZERO, &clock).unwrap_err();
        assert_eq!(late.workers, [WorkerId(1)]);
        assert_eq!(state.view().generations[1], (WorkerId(1), second, false));
    }

    #[test]
    fn a_change_is_live_though_a_later_one_is_not() {
        let (state, mut readers, clock) = state();
        readers[1].begin_sleep();
        readers[0].load();
        let second = state
            .publish(parse(81), Generation(0), &clock)
            .unwrap()
            .generation;
        readers[0].load();
        let third = state
            .publish(parse(82), Generation(0), &clock)
            .unwrap()
            .generation;
        assert_eq!(state.wait_live(second, Duration::ZERO, &clock), Ok(()));
        assert!(state.wait_live(third, Duration::ZERO, &clock).is_err());
    }

    #[test]
    fn the_same_content_keeps_its_generation() {
        let (state, _readers, clock) = state();
        let published = state.publish(parse(80), Generation(0), &clock).unwrap();
        assert!(published.unchanged);
        assert_eq!(published.generation, Generation(1));
    }

    #[test]
    fn what_is_saved_is_what_is_in_force() {
        let (state, _readers, clock) = state();
        let second = state
            .publish(parse(81), Generation(0), &clock)
            .unwrap()
            .generation;
        assert_eq!(state.while_in_force(second, || "saved"), Some("saved"));
        state.publish(parse(82), Generation(0), &clock).unwrap();
        assert_eq!(state.while_in_force(second, || "saved"), None);
    }
}
