//! The devices' side of `status`.

use serde_json::{Map, Value, json};

use crate::af_xdp::{Link, LinkStatistics, Mode, PortState, PortStatistics};
use crate::control::{LinkStatus, PortStatus, QueueStatus};
use crate::types::PortSide;

/// What the kernel says of a link.
pub(super) fn link_status(link: &Link) -> LinkStatus {
    let description = link.describe();
    let mut notes = description.notes;
    let states = link.port_states();
    for (port, state) in description.ports.iter().zip(states.iter().flatten()) {
        if *state != PortState::Up {
            notes.push(format!("`{}`: {}", port.device, state.text()));
        }
    }
    let statistics = link.statistics();
    if let Err(error) = &statistics {
        notes.push(format!("the kernel's counters cannot be read: {error}"));
    }
    let statistics = statistics.ok();
    notes.dedup();
    let is_generic = description
        .ports
        .iter()
        .any(|port| port.mode == Mode::Generic);
    let ports = PortSide::ALL
        .iter()
        .zip(&description.ports)
        .map(|(side, port)| PortStatus {
            side: side.name().to_owned(),
            device: port.device.clone(),
            driver: port.driver.clone(),
            mode: port.mode.name().to_owned(),
            mtu: port.mtu,
            rx_queues: port.rx_queues,
            kernel: statistics
                .as_ref()
                .map_or_else(Map::new, |s| port_counters(&s.ports[side.index()])),
        });
    LinkStatus {
        name: description.name.clone(),
        ports: ports.collect(),
        mode: if is_generic {
            Mode::Generic
        } else {
            Mode::Native
        }
        .name()
        .to_owned(),
        zero_copy: description.zero_copy,
        pages: description.pages.name().to_owned(),
        queues: statistics.as_ref().map_or_else(Vec::new, queues),
        notes,
    }
}

fn port_counters(port: &PortStatistics) -> Map<String, Value> {
    object(json!({
        "rx_packets": port.rx_packets,
        "rx_dropped": port.rx_dropped,
        "rx_errors": port.rx_errors,
        "rx_missed": port.rx_missed,
        "tx_packets": port.tx_packets,
        "tx_dropped": port.tx_dropped,
        "tx_errors": port.tx_errors,
        "xdp_drops": port.xdp_drops,
    }))
}

fn queues(statistics: &LinkStatistics) -> Vec<QueueStatus> {
    let queue = |queue: &crate::af_xdp::QueueStatistics| QueueStatus {
        side: queue.side.name().to_owned(),
        queue: queue.queue,
        kernel: object(json!({
            "rx_dropped": queue.rx_dropped,
            "rx_ring_full": queue.rx_ring_full,
            "rx_fill_ring_empty": queue.rx_fill_ring_empty,
            "rx_invalid_descriptors": queue.rx_invalid_descriptors,
            "tx_invalid_descriptors": queue.tx_invalid_descriptors,
            "tx_ring_empty": queue.tx_ring_empty,
        })),
    };
    statistics.queues.iter().map(queue).collect()
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
