//! What carries commands out. Holds the policy state under a lock that only control threads take.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, to_value};
use tracing::{info, warn};

use super::command::{Applied, ApplyRequest, Command, Refusal};
use super::explain::explain;
use super::flows;
use super::publish::PolicyState;
use super::status::{ConntrackStatus, LinkStatus, SnapshotStatus, Status, WorkerStatus};
use crate::clock::{MonotonicClock, Tick};
use crate::document::{Checked, Report, Source};
use crate::policy::{self, KnownLinks, Policy};
use crate::sync::Arc;
use crate::types::WorkerId;
use crate::worker::Exchange;

/// What a controller controls.
pub struct ControllerSetup {
    /// The policy in force.
    pub state: PolicyState,
    /// The workers.
    pub exchange: Arc<Exchange>,
    /// Core of each worker.
    pub cores: Vec<usize>,
    /// The configured policy file.
    pub policy_path: PathBuf,
    /// Whether a policy without any interface may come into force from the file.
    pub allow_empty: bool,
    /// Room for flows, over all shards.
    pub max_flows: u64,
    /// Asks the devices.
    pub links: Box<dyn Fn() -> Vec<LinkStatus> + Send + Sync>,
    /// The gateway's clock.
    pub clock: MonotonicClock,
}

/// Carries commands out; shared by the control threads.
pub struct Controller {
    setup: Fixed,
    state: Mutex<PolicyState>,
    started: Tick,
}

struct Fixed {
    exchange: Arc<Exchange>,
    cores: Vec<usize>,
    policy_path: PathBuf,
    allow_empty: bool,
    max_flows: u64,
    links: Box<dyn Fn() -> Vec<LinkStatus> + Send + Sync>,
    clock: MonotonicClock,
}

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller")
            .field("policy", &self.setup.policy_path)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ControllerSetup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControllerSetup").finish_non_exhaustive()
    }
}

/// How long a reload (SIGHUP, file watch) waits for the workers before it says that one is late.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(5);

impl Controller {
    /// A controller of a gateway that forwards.
    #[must_use]
    pub fn new(setup: ControllerSetup) -> Self {
        let ControllerSetup {
            state,
            exchange,
            cores,
            policy_path,
            allow_empty,
            max_flows,
            links,
            clock,
        } = setup;
        let started = clock.now();
        let setup = Fixed {
            exchange,
            cores,
            policy_path,
            allow_empty,
            max_flows,
            links,
            clock,
        };
        Self {
            setup,
            state: Mutex::new(state),
            started,
        }
    }

    /// Carries one command out.
    ///
    /// # Errors
    /// A refusal; nothing in force has changed then, unless it says that a worker is late.
    pub fn execute(&self, command: Command) -> Result<Value, Refusal> {
        let value = match command {
            Command::Status => to_value(self.status()),
            Command::Apply(request) => to_value(self.apply(&request)?),
            Command::Explain(request) => {
                let snapshot = Arc::clone(self.lock().snapshot());
                to_value(explain(&snapshot, &request).map_err(Refusal::new)?)
            }
            Command::Flows(request) => {
                let (snapshot, links) = {
                    let state = self.lock();
                    (Arc::clone(state.snapshot()), state.links().to_vec())
                };
                let rows = flows::list(&self.setup.exchange, &snapshot, &links, &request);
                to_value(rows.map_err(Refusal::new)?)
            }
        };
        value.map_err(|error| Refusal::new(format!("the answer could not be written: {error}")))
    }

    /// Reads the configured policy file and puts it in force; what is wrong goes to the log, and
    /// the policy in force stays.
    pub fn reload(&self) {
        let path = self.setup.policy_path.display();
        let source = match Source::read(&self.setup.policy_path) {
            Ok(source) => source,
            Err(report) => return log_refused(&report),
        };
        let checked = match self.check(&source, self.setup.allow_empty) {
            Ok(checked) => checked,
            Err(report) => return log_refused(&report),
        };
        let mut state = self.lock();
        let before = state.snapshot().generation();
        match state.apply(checked.value, RELOAD_TIMEOUT, &self.setup.clock) {
            Ok(generation) if generation == before => {
                info!(%generation, %path, "the policy file says what is in force already");
            }
            Ok(generation) => info!(%generation, %path, "policy in force"),
            Err(error) => warn!(error = full(&error), %path, "policy not in force"),
        }
    }

    fn check(&self, source: &Source, allow_empty: bool) -> Result<Checked<Policy>, Report> {
        let links = self.lock().links().to_vec();
        let checked = policy::parse(source, KnownLinks::Names(&links))?;
        if !allow_empty {
            policy::refuse_empty(source, &checked.value)?;
        }
        Ok(checked)
    }

    fn apply(&self, request: &ApplyRequest) -> Result<Applied, Refusal> {
        let source = Source::from_bytes(request.name.clone(), request.text.clone().into_bytes())
            .map_err(|report| refused(&report))?;
        let checked = self
            .check(&source, request.allow_empty)
            .map_err(|report| refused(&report))?;
        let warnings = checked.warnings.problems();
        let policy = checked.value;
        let mut state = self.lock();
        let changes = policy::changes(state.policy(), &policy);
        let changes = changes.iter().map(ToString::to_string).collect();
        let before = state.snapshot().generation();
        if request.dry_run {
            let next = state
                .try_compile(&policy)
                .map_err(|error| Refusal::new(full(&error)))?;
            drop(state);
            let ended = flows::count_ended(&self.setup.exchange, &next).map_err(Refusal::new)?;
            return Ok(Applied {
                generation: before.0,
                unchanged: true,
                microseconds: 0,
                changes,
                ended_flows: Some(ended),
                warnings,
            });
        }
        let started = self.setup.clock.now();
        let timeout = Duration::from_millis(request.timeout_ms);
        let generation = state
            .apply(policy, timeout, &self.setup.clock)
            .map_err(|error| Refusal::new(full(&error)))?;
        let elapsed = self.setup.clock.now().since(started);
        if request.save {
            save(&self.setup.policy_path, request.text.as_bytes()).map_err(|error| {
                let path = self.setup.policy_path.display();
                Refusal::new(format!(
                    "generation {generation} is in force, but {path} cannot be replaced: {error}"
                ))
            })?;
        }
        info!(%generation, document = request.name, saved = request.save, "policy applied");
        Ok(Applied {
            generation: generation.0,
            unchanged: generation == before,
            microseconds: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
            changes,
            ended_flows: None,
            warnings,
        })
    }

    fn status(&self) -> Status {
        let now = self.setup.clock.now();
        let uptime = now.since(self.started);
        let (generation, generations, snapshot) = {
            let mut state = self.lock();
            state.retire();
            let snapshot = state.snapshot();
            let stats = snapshot.stats();
            let micros = state.compile_time().as_micros();
            let status = SnapshotStatus {
                rules: stats.rules as u64,
                groups: stats.groups as u64,
                interfaces: stats.interfaces as u64,
                bytes: stats.bytes as u64,
                compile_microseconds: u64::try_from(micros).unwrap_or(u64::MAX),
            };
            (
                snapshot.generation(),
                state.publisher().generations(),
                status,
            )
        };
        let mut conntrack = ConntrackStatus::new(self.setup.max_flows);
        let mut workers = Vec::new();
        for (index, &core) in self.setup.cores.iter().enumerate() {
            let worker = WorkerId(u16::try_from(index).unwrap_or(u16::MAX));
            let Some(counters) = self.setup.exchange.counters(worker) else {
                continue;
            };
            let view = counters.view();
            conntrack.add(&view.gauges);
            let used = generations.iter().find(|(id, _, _)| *id == worker);
            let asleep = used.is_some_and(|(_, _, asleep)| *asleep);
            // A sleeper loads the current one before its next frame.
            let used = match used {
                Some((_, used, false)) => *used,
                _ => generation,
            };
            workers.push(WorkerStatus::new(core, &view, uptime, used, asleep));
        }
        Status {
            generation: generation.0,
            uptime_seconds: uptime.as_secs(),
            workers,
            links: (self.setup.links)(),
            conntrack,
            snapshot,
        }
    }

    fn lock(&self) -> MutexGuard<'_, PolicyState> {
        // A panic in a control thread ends the process in release builds; in tests the state is
        // still whole, since `apply` changes it in one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Replaces a file in one step: readers see the old content or the new.
fn save(path: &Path, content: &[u8]) -> io::Result<()> {
    let target = fs::canonicalize(path)?;
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = target.with_file_name(name);
    let mut file = File::create(&temporary)?;
    file.set_permissions(fs::metadata(&target)?.permissions())?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, &target)?;
    match target.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn refused(report: &Report) -> Refusal {
    let count = report.errors_count();
    let plural = if count == 1 { "" } else { "s" };
    Refusal {
        message: format!("refused, the policy in force stays: {count} error{plural}"),
        problems: report.problems(),
    }
}

fn log_refused(report: &Report) {
    for problem in report.problems() {
        warn!(%problem, "policy refused; the one in force stays");
    }
}

/// An error with its sources, on one line.
fn full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    // Bound: error chains are as deep as our error types nest.
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
