//! `portcullis status`.

use std::io::{self, Write};

use serde_json::{Map, Value};

use super::apply::waits;
use super::{AskArguments, Failure};
use crate::control::{Command, EvictedBy, LinkStatus, Status};

pub(super) fn run(arguments: &AskArguments) -> Result<(), Failure> {
    let Some(status) = arguments.ask::<Status>(&Command::Status)? else {
        return Ok(());
    };
    let mut out = io::stdout().lock();
    write_text(&mut out, &status)?;
    Ok(())
}

fn write_text(out: &mut impl Write, status: &Status) -> io::Result<()> {
    let snapshot = &status.snapshot;
    writeln!(
        out,
        "generation {}, up {} s: {} rules, {} groups, {} interfaces, compiled in {} µs to {} KiB",
        status.generation,
        status.uptime_seconds,
        snapshot.rules,
        snapshot.groups,
        snapshot.interfaces,
        snapshot.compile_microseconds,
        snapshot.bytes.div_ceil(1024)
    )?;
    if let Some(confirmation) = &status.confirmation {
        writeln!(out, "{}", waits(confirmation))?;
    }
    let table = &status.conntrack;
    writeln!(
        out,
        "flows {} of {}, room for {}, refused {} (by a limit {}), evicted {}{}, picked up {}",
        table.flows,
        table.max_flows,
        table.conntrack_allowance_available,
        table.conntrack_allowance_exceeded,
        table.limited,
        table.evicted,
        evicted(&table.evicted_by),
        table.picked_up
    )?;
    for worker in &status.workers {
        writeln!(
            out,
            "worker on core {}: generation {}, busy {:.1} %{}, flows {}",
            worker.core,
            worker.generation,
            worker.busy_ratio * 100.0,
            if worker.asleep { ", asleep" } else { "" },
            worker.flows
        )?;
        writeln!(
            out,
            "  received {}, sent {}, in flight {}, handed over {}",
            worker.rx_packets, worker.tx_packets, worker.in_flight, worker.handed_over
        )?;
        writeln!(out, "  passed   {}", counts(&worker.passed))?;
        writeln!(out, "  dropped  {}", counts(&worker.dropped))?;
    }
    for link in &status.links {
        write_link(out, link)?;
    }
    Ok(())
}

/// What gave way, if anything did.
fn evicted(by: &EvictedBy) -> String {
    let kinds = [
        ("untracked", by.untracked),
        ("closed", by.closed),
        ("unanswered", by.unanswered),
        ("half open", by.half_open),
    ];
    let counted = kinds.iter().filter(|(_, count)| *count > 0);
    let counted: Vec<String> = counted.map(|(name, n)| format!("{name} {n}")).collect();
    match counted.is_empty() {
        true => String::new(),
        false => format!(" ({})", counted.join(", ")),
    }
}

fn write_link(out: &mut impl Write, link: &LinkStatus) -> io::Result<()> {
    let copy = if link.zero_copy { "zero-copy" } else { "copy" };
    writeln!(
        out,
        "link {}: {} XDP, {copy}, {}",
        link.name, link.mode, link.pages
    )?;
    for port in &link.ports {
        writeln!(
            out,
            "  {:<8} {} ({}, {} queues, MTU {}): kernel {}",
            port.side,
            port.device,
            port.driver,
            port.rx_queues,
            port.mtu,
            counts(&port.kernel)
        )?;
    }
    for queue in link.queues.iter().filter(|queue| any(&queue.kernel)) {
        writeln!(
            out,
            "  {:<8} queue {}: {}",
            queue.side,
            queue.queue,
            counts(&queue.kernel)
        )?;
    }
    for note in &link.notes {
        writeln!(out, "  note: {note}")?;
    }
    Ok(())
}

fn any(counters: &Map<String, Value>) -> bool {
    counters
        .values()
        .any(|value| value.as_u64().unwrap_or(0) > 0)
}

/// The counters that are not zero.
fn counts(counters: &Map<String, Value>) -> String {
    let counted: Vec<String> = counters
        .iter()
        .filter(|(_, value)| value.as_u64().unwrap_or(0) > 0)
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    if counted.is_empty() {
        "nothing".to_owned()
    } else {
        counted.join(", ")
    }
}
