//! The life of a gateway: check, open, start, forward, end.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Sender, bounded};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{info, warn};

use super::assemble::{Deal, deal};
use super::convert::{idle_policy, link_options, pipeline_config, shard_config};
use super::devices::link_status;
use super::ports;
use super::watchdog;
use crate::af_xdp::{Link, XdpError, XdpQueue};
use crate::clock::MonotonicClock;
use crate::compile::CompileError;
use crate::config::Config;
use crate::conntrack::Shard;
use crate::control::{
    Controller, ControllerSetup, PolicyState, ReloadCause, Server, ServerError, SocketOwner,
    WatchError, watch_file,
};
use crate::pipeline::Steering;
use crate::policy::Policy;
use crate::snapshot::{Publisher, SnapshotReader};
use crate::sync::{Arc, AtomicBool, Ordering};
use crate::types::WorkerId;
use crate::worker::{
    Exchange, INBOX_FRAMES, Lanes, RunningWorker, SpawnError, Worker, WorkerSetup, spawn,
};

/// What a start is told beside the configuration.
#[derive(Clone, Debug)]
pub struct StartOptions {
    /// A policy without any interface may come into force.
    pub allow_empty: bool,
}

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// A core of `[workers] cores` is not this process's to use.
    #[error(
        "[workers] cores names core {core}, which this process may not use; it may use {allowed:?}"
    )]
    Core {
        /// The core.
        core: usize,
        /// Those it may use.
        allowed: Vec<usize>,
    },
    /// The policy exceeds a limit of the compiled form.
    #[error("the policy cannot be compiled")]
    Compile(#[from] CompileError),
    /// A link's devices cannot be had.
    #[error("link `{link}` cannot be opened")]
    Link {
        /// The link's name.
        link: String,
        /// Why.
        #[source]
        source: Box<XdpError>,
    },
    /// A worker did not start.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The control socket cannot be made.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The policy file cannot be watched.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// `[control] owner` or `group` is not known here.
    #[error("[control] {key} = \"{name}\": no such {key} on this host")]
    Owner {
        /// `owner` or `group`.
        key: &'static str,
        /// What was given.
        name: String,
    },
    /// The system refused something else.
    #[error("{what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> GatewayError {
    move |source| GatewayError::System { what, source }
}

/// Runs a gateway in the foreground until SIGTERM or SIGINT.
///
/// # Errors
/// Where it cannot start; the links then stay as `on_exit` says.
pub fn run(config: &Config, policy: Policy, options: &StartOptions) -> Result<(), GatewayError> {
    let cores = choose_cores(&config.workers.cores)?;
    let clock = MonotonicClock::start();
    let mut signals =
        Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(system("cannot catch signals"))?;
    // The socket is claimed before any device is touched: a second gateway ends here.
    let server = Server::bind(&config.control_socket, socket_owner(config)?)?;
    let links = config.link_names();
    let (compiler, snapshot, compile_time) = PolicyState::compile_first(&policy, &links, &clock)?;
    let workers = u16::try_from(cores.len()).unwrap_or(u16::MAX);
    let (publisher, readers) = Publisher::new(Arc::new(snapshot), workers);
    let mut devices = open_links(config)?;
    let stop = Arc::new(AtomicBool::new(false));
    let (exchange, workers) = start_workers(config, &mut devices, readers, &cores, clock, &stop)?;
    for link in &mut devices {
        let name = link.describe().name;
        link.activate().map_err(|source| GatewayError::Link {
            link: name,
            source: Box::new(source),
        })?;
    }
    announce(&devices, &cores);
    let thread_ids = workers.iter().map(|worker| worker.thread_id).collect();
    watchdog::watch(Arc::clone(&exchange), thread_ids, Arc::clone(&stop))
        .map_err(system("cannot start the watchdog"))?;
    let state = PolicyState::new(policy, compiler, publisher, links, compile_time);
    // Links stay open for as long as the gateway lives: the controller owns them from here on.
    let devices = Arc::new(Mutex::new(devices));
    let opened = Arc::clone(&devices);
    ports::watch(Arc::clone(&devices), Arc::clone(&stop))
        .map_err(system("cannot start the watch of the ports"))?;
    let controller = Arc::new(Controller::new(ControllerSetup {
        state,
        exchange: Arc::clone(&exchange),
        cores,
        policy_path: config.policy.clone(),
        allow_empty: options.allow_empty,
        history: usize::try_from(config.control.history).unwrap_or(usize::MAX),
        max_flows: u64::from(config.conntrack.max_flows),
        links: Box::new(move || {
            let devices = devices.lock().unwrap_or_else(PoisonError::into_inner);
            devices.iter().map(link_status).collect()
        }),
        clock,
    }));
    let reload = start_threads(&controller, &config.policy)?;
    // What was written since it was read, before anybody can apply a policy: one that is applied
    // stays in force until the file changes.
    controller.reload(ReloadCause::Start);
    server
        .serve(Arc::clone(&controller))
        .map_err(system("cannot serve the control socket"))?;
    notify(NotifyState::Ready);
    info!(socket = %config.control_socket.display(), "ready: every port forwards");
    for signal in signals.forever() {
        match signal {
            SIGHUP => reload.ask(ReloadCause::Signal),
            _ => break,
        }
    }
    notify(NotifyState::Stopping);
    info!("ending: the links do as on_exit says");
    for link in opened
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter_mut()
    {
        if let Err(error) = link.deactivate() {
            let link = link.describe().name;
            warn!(link, %error, "frames come in until the end");
        }
    }
    finish(&exchange, workers, &stop);
    Ok(())
}

/// Starts the threads of the control side that no client needs.
fn start_threads(controller: &Arc<Controller>, policy: &Path) -> Result<Reloads, GatewayError> {
    controller
        .watch_deadlines()
        .map_err(system("cannot start the watch of confirmations"))?;
    let reload = start_reloads(controller).map_err(system("cannot start the reloads"))?;
    let changed = reload.clone();
    watch_file(policy, move || changed.ask(ReloadCause::File))?;
    Ok(reload)
}

/// Asks for reloads of the policy; they are made on a thread of their own, one at a time, so that
/// SIGTERM never waits for one.
#[derive(Clone)]
struct Reloads(Sender<ReloadCause>);

/// Requests that wait at most. More than these say nothing new: each reads the file as it is then.
const RELOADS_MAX: usize = 16;

impl Reloads {
    fn ask(&self, cause: ReloadCause) {
        // Full: what waits reads the file later than now.
        let _full = self.0.try_send(cause);
    }
}

fn start_reloads(controller: &Arc<Controller>) -> io::Result<Reloads> {
    let (sender, causes) = bounded(RELOADS_MAX);
    let controller = Arc::clone(controller);
    let body = move || causes.iter().for_each(|cause| controller.reload(cause));
    thread::Builder::new()
        .name("reload".to_owned())
        .spawn(body)?;
    Ok(Reloads(sender))
}

/// The cores to pin workers to; without any named, one that this process may use.
fn choose_cores(named: &[usize]) -> Result<Vec<usize>, GatewayError> {
    let allowed = core_affinity::get_core_ids().unwrap_or_default();
    let allowed: Vec<usize> = allowed.into_iter().map(|core| core.id).collect();
    if named.is_empty() {
        // The last: interrupts and other work tend to the first.
        let last = allowed.last().copied();
        return last
            .map(|core| vec![core])
            .ok_or(GatewayError::Core { core: 0, allowed });
    }
    match named.iter().find(|core| !allowed.contains(core)) {
        Some(&core) => Err(GatewayError::Core { core, allowed }),
        None => Ok(named.to_vec()),
    }
}

fn open_links(config: &Config) -> Result<Vec<Link>, GatewayError> {
    let state_dir: &Path = &config.state_dir;
    let open = |link: &crate::config::Link| {
        let failed = |source| GatewayError::Link {
            link: link.name.clone(),
            source: Box::new(source),
        };
        Link::open(&link_options(link, &config.umem), state_dir).map_err(failed)
    };
    config.links.iter().map(open).collect()
}

fn start_workers(
    config: &Config,
    links: &mut [Link],
    readers: Vec<SnapshotReader>,
    cores: &[usize],
    clock: MonotonicClock,
    stop: &Arc<AtomicBool>,
) -> Result<(Arc<Exchange>, Vec<RunningWorker>), GatewayError> {
    let Deal {
        queues,
        routes,
        homes,
        free,
        chunks_at_home,
    } = deal(links, cores.len());
    let exchange = Exchange::new(&chunks_at_home, INBOX_FRAMES)
        .map_err(system("cannot make the workers' doorbells"))?;
    let exchange = Arc::new(exchange);
    let pipeline = Arc::new(pipeline_config(config));
    let workers = u16::try_from(cores.len()).unwrap_or(u16::MAX);
    let steering = Steering::new(secret_seed(), workers);
    let memories: Vec<_> = links.iter().map(Link::umem).collect();
    let mut running = Vec::new();
    let parts = queues.into_iter().zip(free).zip(readers).zip(cores);
    for (index, (((queues, free), reader), &core)) in parts.enumerate() {
        let id = WorkerId(u16::try_from(index).unwrap_or(u16::MAX));
        if queues.is_empty() {
            info!(
                worker = index,
                core, "has no queue of its own and serves handed-over flows"
            );
        }
        let exchange = Arc::clone(&exchange);
        let shard_config = shard_config(&config.conntrack, u32::from(workers), secret_seed());
        let mut lanes: Lanes<XdpQueue> =
            Lanes::new(id, queues, &routes, homes.clone(), free, exchange);
        lanes.prefill();
        let worker = Worker::new(WorkerSetup {
            lanes,
            memories: memories.clone(),
            shard: Shard::new(&shard_config, clock.now()),
            reader,
            config: Arc::clone(&pipeline),
            steering: steering.clone(),
            burst: config.workers.burst,
        });
        let idle = idle_policy(config.workers.idle);
        running.push(spawn(worker, core, idle, clock, Arc::clone(stop))?);
    }
    Ok((exchange, running))
}

/// Two words from the system's randomness, by the standard library's per-process hash keys.
fn secret_seed() -> [u64; 2] {
    [
        RandomState::new().hash_one(0_u8),
        RandomState::new().hash_one(1_u8),
    ]
}

fn announce(links: &[Link], cores: &[usize]) {
    for link in links {
        let description = link.describe();
        for note in &description.notes {
            info!(link = description.name, "{note}");
        }
        let [inside, outside] = &description.ports;
        info!(
            link = description.name,
            inside = inside.device,
            outside = outside.device,
            mode = inside.mode.name(),
            zero_copy = description.zero_copy,
            pages = description.pages.name(),
            queues = inside.rx_queues,
            "link forwards"
        );
    }
    info!(?cores, "workers pinned");
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!(%error, "the service manager was not told");
    }
}

/// How long workers have to end their turn.
const DRAIN: Duration = Duration::from_secs(2);

/// Lets every worker end its turn, so that what was received is sent or dropped.
fn finish(exchange: &Exchange, workers: Vec<RunningWorker>, stop: &AtomicBool) {
    stop.store(true, Ordering::Relaxed);
    let period = Duration::from_millis(5);
    for (index, worker) in workers.into_iter().enumerate() {
        exchange.wake(WorkerId(u16::try_from(index).unwrap_or(u16::MAX)));
        let mut waited = Duration::ZERO;
        while !worker.thread.is_finished() && waited < DRAIN {
            thread::sleep(period);
            waited += period;
        }
        if worker.thread.is_finished() {
            if worker.thread.join().is_err() {
                warn!(worker = index, "ended in a panic");
            }
        } else {
            warn!(worker = index, "did not end its turn in time");
        }
    }
}

fn socket_owner(config: &Config) -> Result<SocketOwner, GatewayError> {
    let control = &config.control;
    let id = |key: &'static str, name: &Option<String>, file: &str| {
        let Some(name) = name else { return Ok(None) };
        let found = name
            .parse()
            .ok()
            .or_else(|| id_of(name, &PathBuf::from(file)));
        found.map(Some).ok_or_else(|| GatewayError::Owner {
            key,
            name: name.clone(),
        })
    };
    Ok(SocketOwner {
        user: id("owner", &control.owner, "/etc/passwd")?,
        group: id("group", &control.group, "/etc/group")?,
        mode: control.mode,
    })
}

/// The number of a name in `passwd(5)` or `group(5)` form: the third field of its line.
fn id_of(name: &str, file: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text
        .lines()
        .find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_that_may_not_be_used_is_refused_with_those_that_may() {
        let error = choose_cores(&[100_000]).unwrap_err().to_string();
        assert!(
            error.contains("core 100000") && error.contains("it may use [0"),
            "{error}"
        );
        assert_eq!(choose_cores(&[]).unwrap().len(), 1);
    }

    #[test]
    fn names_of_users_are_found_by_their_line() {
        assert_eq!(id_of("root", Path::new("/etc/passwd")), Some(0));
        assert_eq!(id_of("no such user", Path::new("/etc/passwd")), None);
    }
}
