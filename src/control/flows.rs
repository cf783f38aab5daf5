//! Live flows, asked of the workers page by page, and answered so: what the gateway holds of them
//! at one time does not grow with the table.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Sender, bounded};
use serde::{Deserialize, Serialize};

use super::command::{FlowCursor, FlowsRequest};
use super::flow_filter::FlowMatcher;
use crate::clock::{MonotonicClock, Tick};
use crate::conntrack::FlowView;
use crate::snapshot::{Decision, FlowSeat, InterfaceRef, Question, Snapshot};
use crate::types::{WorkerId, protocol};
use crate::worker::{Exchange, FLOW_ENDS_MAX, FlowPage, WorkerCommand};

/// A worker answers within a turn, and a sleeper is woken; past this it is stuck.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// Pause before a worker whose requests are as many as may wait is asked again.
const BUSY_PAUSE: Duration = Duration::from_millis(1);
/// Rows and pages of one answer at most: a megabyte or two, and far less than a second's work.
const ROWS_MAX: usize = 1024;
const PAGES_MAX: usize = 1024;

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowList {
    /// Flows, in no order.
    pub flows: Vec<FlowRow>,
    /// Where to go on; null after the last.
    pub next: Option<FlowCursor>,
}

/// One flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowRow {
    /// The worker whose shard has it.
    pub worker: u16,
    /// The link's name.
    pub link: String,
    /// Outer VLAN id.
    pub vlan: Option<u16>,
    /// The interface's name; null once it has left the policy.
    pub interface: Option<String>,
    /// The opener's direction at the interface.
    pub direction: String,
    /// Protocol's name or number.
    pub protocol: String,
    /// Who opened it.
    pub source: IpAddr,
    /// Its port (ICMP: the query's identifier).
    pub source_port: u16,
    /// Whom it was opened to.
    pub destination: IpAddr,
    /// The port there (ICMP: the query's type).
    pub destination_port: u16,
    /// State of the connection.
    pub state: String,
    /// `tracked`, `untracked` or `unenforced`.
    pub class: String,
    /// Id of the rule that admitted it; null once that has left the policy.
    pub rule: Option<String>,
    /// Name of that rule's group.
    pub group: Option<String>,
    /// Seconds since it was opened.
    pub age_seconds: f64,
    /// Seconds since its last packet.
    pub idle_seconds: f64,
    /// Seconds until it ends without a packet.
    pub expires_in_seconds: f64,
    /// Packets of the opener.
    pub packets: u64,
    /// Bytes of the opener.
    pub bytes: u64,
    /// Packets of the other side.
    pub reply_packets: u64,
    /// Bytes of the other side.
    pub reply_bytes: u64,
}

fn fetch_page(exchange: &Exchange, from: FlowCursor) -> Result<Box<FlowPage>, String> {
    let page = FlowPage::new(from.slot);
    ask(exchange, WorkerId(from.worker), |reply| {
        WorkerCommand::Flows(page, reply)
    })
}

/// Gives a worker a request, and waits for its answer.
fn ask<T>(
    exchange: &Exchange,
    worker: WorkerId,
    command: impl FnOnce(Sender<T>) -> WorkerCommand,
) -> Result<T, String> {
    let clock = MonotonicClock::start();
    let late = || {
        format!(
            "worker {} did not answer within {ANSWER_PATIENCE:?}",
            worker.0
        )
    };
    let (reply, answer) = bounded(1);
    let mut command = command(reply);
    // Bound: ANSWER_PATIENCE.
    while let Err(refused) = exchange.command(worker, command) {
        if clock.now().since(Tick::default()) >= ANSWER_PATIENCE {
            return Err(late());
        }
        command = refused;
        thread::sleep(BUSY_PAUSE);
    }
    answer.recv_timeout(ANSWER_PATIENCE).map_err(|_late| late())
}

/// Where to go on after a page.
fn after(exchange: &Exchange, from: FlowCursor, page: &FlowPage) -> Option<FlowCursor> {
    let next = match page.next {
        Some(slot) => FlowCursor { slot, ..from },
        None => FlowCursor {
            worker: from.worker.checked_add(1)?,
            slot: 0,
        },
    };
    (usize::from(next.worker) < exchange.workers()).then_some(next)
}

/// Lists live flows, and ends them where that is asked.
///
/// # Errors
/// One line where a name of the filter or a worker is not known, a worker does not answer, or
/// flows are to be ended and nothing says which.
pub(super) fn list(
    exchange: &Exchange,
    snapshot: &Snapshot,
    links: &[String],
    request: &FlowsRequest,
) -> Result<FlowList, String> {
    if request.end && request.filter.is_empty() && !request.all {
        return Err("which flows to end? A filter says, or `all`".to_owned());
    }
    let matcher = FlowMatcher::new(&request.filter, snapshot)?;
    let limit = match request.limit {
        0 => ROWS_MAX,
        limit => limit.min(ROWS_MAX),
    };
    let first = request.from.unwrap_or_default();
    if usize::from(first.worker) >= exchange.workers() {
        return Err(format!("there is no worker {}", first.worker));
    }
    let mut rows = Vec::new();
    let mut next = Some(first);
    for _ in 0..PAGES_MAX {
        let Some(from) = next.filter(|_| rows.len() < limit) else {
            break;
        };
        let page = fetch_page(exchange, from)?;
        let worker = WorkerId(from.worker);
        let mut wanted: Vec<&FlowView> = page
            .rows
            .iter()
            .filter(|flow| matcher.matches(flow))
            .collect();
        if request.limit != 0 {
            // Who asks for few wants no more of a page.
            wanted.truncate(request.limit.saturating_sub(rows.len()));
        }
        if request.end && !wanted.is_empty() {
            let mut ended = Vec::with_capacity(wanted.len());
            for some in wanted.chunks(FLOW_ENDS_MAX) {
                let keys = some.iter().map(|flow| flow.key).collect();
                ended.extend(ask(exchange, worker, |reply| {
                    WorkerCommand::End(keys, reply)
                })?);
            }
            // Some may have ended by themselves meanwhile. The order stays.
            let mut ended = ended.iter().peekable();
            wanted.retain(|flow| ended.next_if(|key| **key == flow.key).is_some());
        }
        rows.extend(
            wanted
                .iter()
                .map(|flow| describe(worker, flow, snapshot, links)),
        );
        next = after(exchange, from, &page);
    }
    if request.limit != 0 && rows.len() >= request.limit {
        next = None;
    }
    Ok(FlowList { flows: rows, next })
}

fn describe(worker: WorkerId, flow: &FlowView, snapshot: &Snapshot, links: &[String]) -> FlowRow {
    let opener = flow.head.opener;
    let (source, source_port) = flow.key.end(opener);
    let (destination, destination_port) = flow.key.end(opener.opposite());
    let interface = snapshot.interface_by_slot(flow.head.interface);
    let interface = interface.and_then(|interface| snapshot.interface(interface));
    let rule = flow.head.rule.and_then(|rule| snapshot.rule(rule));
    FlowRow {
        worker: worker.0,
        link: links
            .get(flow.key.link.index())
            .cloned()
            .unwrap_or_default(),
        vlan: flow.key.vlan.outer,
        interface: interface.map(|interface| interface.name.to_string()),
        direction: flow.head.direction.name().to_owned(),
        protocol: protocol::name_or_number(flow.key.protocol),
        source: source.into(),
        source_port,
        destination: destination.into(),
        destination_port,
        state: flow.state.name().to_owned(),
        class: flow.head.class.name().to_owned(),
        rule: rule.map(|rule| rule.id.to_string()),
        group: rule.map(|rule| rule.group.name.to_string()),
        age_seconds: flow.age.as_secs_f64(),
        idle_seconds: flow.idle.as_secs_f64(),
        expires_in_seconds: flow.expires_in.as_secs_f64(),
        packets: flow.sent.packets,
        bytes: flow.sent.bytes,
        reply_packets: flow.answered.packets,
        reply_bytes: flow.answered.bytes,
    }
}

/// What a policy would do to live flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FlowEffects {
    /// Flows that end at once: their address at the interface is no longer that interface's.
    pub(super) ended: u64,
    /// Others that the rules would no longer admit.
    pub(super) refused: u64,
}

/// Counts what a snapshot would do to live flows.
///
/// # Errors
/// One line where a worker does not answer.
pub(super) fn count_effects(
    exchange: &Exchange,
    next_policy: &Snapshot,
) -> Result<FlowEffects, String> {
    let mut effects = FlowEffects::default();
    let mut next = Some(FlowCursor::default());
    // Bound: the slots of all shards.
    while let Some(from) = next {
        let page = fetch_page(exchange, from)?;
        for flow in page.rows.iter().filter(|flow| !flow.head.is_tombstone) {
            match owner_in(flow, next_policy) {
                None => effects.ended += 1,
                Some(interface) => {
                    let head = &flow.head;
                    let (opener, inside) = (head.opener, head.inside_end());
                    let question = Question::of_opener(&flow.key, opener, inside, head.query_code);
                    let decision = next_policy.decide(interface, head.direction, &question);
                    effects.refused += u64::from(decision == Decision::Deny);
                }
            }
        }
        next = after(exchange, from, &page);
    }
    Ok(effects)
}

/// The flow's interface, if the flow still stands under a policy.
fn owner_in(flow: &FlowView, next: &Snapshot) -> Option<InterfaceRef> {
    next.seat(&FlowSeat {
        key: &flow.key,
        inside: flow.head.inside_end(),
        interface: flow.head.interface,
        judged_low: flow.head.generation_low,
    })
}
