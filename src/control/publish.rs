//! The policy in force and the one way to change it: compile → publish → wait until live.
//!
//! Two locks, so that nobody waits for what is slow: one serialises changes while they compile,
//! the other is held for moments to look at what is in force, or to replace it. No lock is held
//! while a change waits for the workers: a worker that is late holds up its own change only.

use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::thread;
use std::time::Duration;

use super::slots::{InUse, SlotReturns};
use super::versions::{Origin, Pending, Tally, Version, Versions};
use crate::clock::{MonotonicClock, Tick, unix_time};
use crate::compile::{CompileError, Compiler, LeftSlots};
use crate::policy::{self, Policy};
use crate::snapshot::{Publisher, Snapshot, SnapshotStats};
use crate::sync::Arc;
use crate::types::{Generation, WorkerId};
use crate::worker::Exchange;

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

/// Why nothing was published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// It exceeds a limit of the compiled form.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// An earlier change waits to be confirmed.
    #[error(
        "generation {generation} waits to be confirmed, for {} s more: `portcullis confirm` or \
         `portcullis rollback` comes first",
        seconds(*.left)
    )]
    Waits {
        /// The generation that waits.
        generation: Generation,
        /// How long it waits yet.
        left: Duration,
    },
}

/// Why nothing was confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfirmError {
    /// Nothing waits.
    #[error("nothing waits to be confirmed; `portcullis history` says what became of it")]
    Nothing,
    /// It is late.
    #[error("the time to confirm generation {0} is over: the version before comes back")]
    Late(Generation),
}

/// Why the policy in force stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RollbackError {
    /// There is one version only.
    #[error("there is no version before the one in force")]
    First,
    /// It is gone, was never there, or is inside of a run of rule changes.
    #[error("generation {wanted} is not kept; there are {}", list(.kept))]
    Unknown {
        /// What was asked for.
        wanted: Generation,
        /// What there is, newest first.
        kept: Vec<Generation>,
    },
    /// It exceeds a limit of the compiled form.
    #[error(transparent)]
    Compile(#[from] CompileError),
}

fn list(kept: &[Generation]) -> String {
    let texts: Vec<String> = kept.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

/// Whole seconds, begun ones included.
pub(super) fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// What a change does about one that waits to be confirmed.
#[derive(Clone, Debug)]
pub enum Intent {
    /// It is refused while one waits.
    Change,
    /// Likewise; it then waits itself, for so long, and replaces the policy file once confirmed.
    Stage(Duration, Option<Arc<str>>),
    /// It decides: what waited waits no more.
    Settle,
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
    /// Locked after `compiler`, while slots are given back.
    slots: Mutex<SlotReturns>,
    current: Mutex<Current>,
    links: Vec<String>,
}

#[derive(Debug)]
struct Current {
    policy: Arc<Policy>,
    publisher: Publisher,
    /// Former snapshots that somebody may still have, oldest first.
    former: Vec<Weak<Snapshot>>,
    compile_time: Duration,
    /// The newest is `policy`.
    versions: Versions,
}

/// What a policy that was published replaced.
#[derive(Debug)]
pub struct Published {
    /// Its generation.
    pub generation: Generation,
    /// The policy.
    pub policy: Arc<Policy>,
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
    /// A change that waits to be confirmed.
    pub pending: Option<Pending>,
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
        let policy = Arc::new(policy);
        let generation = publisher.current().generation();
        Self {
            compiler: Mutex::new(compiler),
            slots: Mutex::default(),
            current: Mutex::new(Current {
                versions: Versions::new(generation, Arc::clone(&policy), unix_time()),
                policy,
                publisher,
                former: Vec::new(),
                compile_time,
            }),
            links,
        }
    }

    /// Publishes a policy. The same content again keeps its generation. `swept`: up to which
    /// generation no worker has a flow left that lost its address.
    ///
    /// # Errors
    /// See [`PublishError`]; nothing has changed then.
    pub fn publish(
        &self,
        mut policy: Policy,
        origin: Origin,
        intent: Intent,
        swept: Generation,
        clock: &MonotonicClock,
    ) -> Result<Published, PublishError> {
        let mut compiler = lock(&self.compiler);
        self.refuse_while_waiting(&intent, clock)?;
        let before = self.policy();
        policy::share(&before, &mut policy);
        let policy = if policy == *before {
            before
        } else {
            Arc::new(policy)
        };
        Ok(self.replace(&mut compiler, policy, origin, intent, swept, clock)?)
    }

    /// Publishes what `edit` makes of the policy in force; the same pointer is no change.
    ///
    /// # Errors
    /// See [`PublishError`]; nothing has changed then.
    pub fn edit(
        &self,
        swept: Generation,
        clock: &MonotonicClock,
        edit: impl FnOnce(Arc<Policy>) -> (Arc<Policy>, Origin),
    ) -> Result<Published, PublishError> {
        let mut compiler = lock(&self.compiler);
        self.refuse_while_waiting(&Intent::Change, clock)?;
        let (policy, origin) = edit(self.policy());
        Ok(self.replace(&mut compiler, policy, origin, Intent::Change, swept, clock)?)
    }

    /// Publishes the content of a former version: of a generation, else of the version before. To
    /// go back from a change that waits ends its wait.
    ///
    /// # Errors
    /// See [`RollbackError`]; nothing has changed then.
    pub fn roll_back(
        &self,
        to: Option<Generation>,
        swept: Generation,
        clock: &MonotonicClock,
    ) -> Result<(Published, Generation), RollbackError> {
        let mut compiler = lock(&self.compiler);
        let (policy, generation) = lock(&self.current).target(to)?;
        let origin = Origin::Rollback(generation);
        let published =
            self.replace(&mut compiler, policy, origin, Intent::Settle, swept, clock)?;
        Ok((published, generation))
    }

    /// Goes back from a change whose time to be confirmed is over; `None` where there is none.
    ///
    /// # Errors
    /// As [`PolicyState::publish`]; the change then still waits, and cannot be confirmed.
    pub fn expire(
        &self,
        swept: Generation,
        clock: &MonotonicClock,
    ) -> Result<Option<(Published, Pending)>, CompileError> {
        let mut compiler = lock(&self.compiler);
        let pending = lock(&self.current).versions.pending.clone();
        let Some(pending) = pending.filter(|pending| pending.deadline <= clock.now()) else {
            return Ok(None);
        };
        let origin = Origin::AutoRollback(pending.before_generation);
        let policy = Arc::clone(&pending.before);
        let published =
            self.replace(&mut compiler, policy, origin, Intent::Settle, swept, clock)?;
        Ok(Some((published, pending)))
    }

    /// Ends the wait of a change in favor of it.
    ///
    /// # Errors
    /// Where nothing waits, or its time is over.
    pub fn confirm(&self, clock: &MonotonicClock) -> Result<Pending, ConfirmError> {
        let mut current = lock(&self.current);
        let pending = &mut current.versions.pending;
        match pending.take_if(|pending| clock.now() < pending.deadline) {
            Some(confirmed) => Ok(confirmed),
            None => Err(pending.as_ref().map_or(ConfirmError::Nothing, |late| {
                ConfirmError::Late(late.generation)
            })),
        }
    }

    /// Until when the change that waits may be confirmed.
    #[must_use]
    pub fn deadline(&self) -> Option<Tick> {
        let current = lock(&self.current);
        current.versions.pending.as_ref().map(|one| one.deadline)
    }

    /// The versions that are kept, newest first.
    #[must_use]
    pub fn versions(&self) -> Vec<Version> {
        lock(&self.current).versions.newest_first()
    }

    /// Says what a version changed.
    pub fn note(&self, generation: Generation, tally: Tally) {
        lock(&self.current).versions.note(generation, tally);
    }

    /// How many versions are kept from now on.
    pub fn keep_versions(&self, count: usize) {
        lock(&self.current).versions.set_room(count);
    }

    fn refuse_while_waiting(
        &self,
        intent: &Intent,
        clock: &MonotonicClock,
    ) -> Result<(), PublishError> {
        match (intent, &lock(&self.current).versions.pending) {
            (Intent::Settle, _) | (_, None) => Ok(()),
            (Intent::Change | Intent::Stage(..), Some(pending)) => Err(PublishError::Waits {
                generation: pending.generation,
                left: pending.deadline.since(clock.now()),
            }),
        }
    }

    /// Compiles and publishes; only who holds the compiler may.
    fn replace(
        &self,
        compiler: &mut Compiler,
        policy: Arc<Policy>,
        origin: Origin,
        intent: Intent,
        swept: Generation,
        clock: &MonotonicClock,
    ) -> Result<Published, CompileError> {
        let (before, generation) = {
            let mut current = lock(&self.current);
            let generation = current.publisher.current().generation();
            if Arc::ptr_eq(&policy, &current.policy) {
                if matches!(intent, Intent::Settle) {
                    current.versions.pending = None;
                }
                return Ok(Published {
                    generation,
                    policy: Arc::clone(&policy),
                    before: policy,
                    unchanged: true,
                });
            }
            (Arc::clone(&current.policy), generation)
        };
        let started = clock.now();
        compiler.forget_changes(swept);
        let snapshot = compiler.compile(&policy, &self.link_names(), generation.next())?;
        let compile_time = clock.now().since(started);
        let mut current = lock(&self.current);
        let before_generation = generation;
        let generation = current.publish(snapshot);
        let now = clock.now();
        let at = (now, unix_time());
        current.policy = Arc::clone(&policy);
        current.compile_time = compile_time;
        let recorded = Arc::clone(&policy);
        current.versions.record(generation, recorded, origin, at);
        current.versions.pending = match intent {
            Intent::Stage(within, document) => Some(Pending {
                generation,
                deadline: now.after(within),
                before: Arc::clone(&before),
                before_generation,
                document,
            }),
            Intent::Change | Intent::Settle => None,
        };
        Ok(Published {
            generation,
            policy,
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

    /// Gives the slots of rules and interfaces that left the policy and that nobody holds any more
    /// to those that will come, or finds out which these are; to be called after each change.
    /// `vacated` is called before with all that lose their owner, while no change can be made:
    /// here a slot changes hands, and what is kept by slot begins anew.
    pub fn return_slots(
        &self,
        exchange: &Exchange,
        clock: &MonotonicClock,
        vacated: &mut dyn FnMut(&LeftSlots),
    ) {
        let mut compiler = match self.compiler.try_lock() {
            Ok(compiler) => compiler,
            Err(TryLockError::Poisoned(error)) => error.into_inner(),
            // Whoever changes the policy now does it then.
            Err(TryLockError::WouldBlock) => return,
        };
        let in_use = lock(&self.current).in_use();
        let workers = u16::try_from(exchange.workers()).unwrap_or(u16::MAX);
        let mut ask = |worker, command| exchange.command(worker, command);
        let (mut slots, now) = (lock(&self.slots), clock.now());
        slots.step(&mut compiler, workers, in_use, now, &mut ask, vacated);
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
            pending: current.versions.pending.clone(),
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

    /// Both at one moment.
    #[must_use]
    pub fn in_force(&self) -> (Arc<Policy>, Arc<Snapshot>) {
        let current = lock(&self.current);
        let snapshot = Arc::clone(current.publisher.current());
        (Arc::clone(&current.policy), snapshot)
    }

    /// Names of the links, by [`crate::types::LinkId`].
    #[must_use]
    pub fn links(&self) -> &[String] {
        &self.links
    }
}

impl Current {
    fn publish(&mut self, snapshot: Snapshot) -> Generation {
        self.former.retain(|former| former.strong_count() != 0);
        self.former.push(Arc::downgrade(self.publisher.current()));
        self.publisher.publish(Arc::new(snapshot))
    }

    /// The generations of the snapshots that there are.
    fn in_use(&mut self) -> InUse {
        self.publisher.retire();
        let current = self.publisher.current().generation();
        let oldest = self.former.iter().find_map(Weak::upgrade);
        InUse {
            current,
            oldest: oldest.map_or(current, |oldest| oldest.generation()),
        }
    }

    /// The policy to go back to.
    fn target(&self, to: Option<Generation>) -> Result<(Arc<Policy>, Generation), RollbackError> {
        if let (None, Some(pending)) = (to, &self.versions.pending) {
            return Ok((Arc::clone(&pending.before), pending.before_generation));
        }
        let found = match to {
            None => self.versions.before().ok_or(RollbackError::First)?,
            Some(wanted) => self.versions.find(wanted).ok_or_else(|| {
                let versions = self.versions.newest_first();
                let kept = versions.iter().map(|version| version.generation).collect();
                RollbackError::Unknown { wanted, kept }
            })?,
        };
        Ok((Arc::clone(&found.policy), found.generation))
    }
}

/// A panic in a control thread ends the process in release builds; elsewhere the state is still
/// whole, since it is changed in one step.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
