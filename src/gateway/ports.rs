//! Watches the ports while the gateway runs, and says in the log what becomes of them.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::{error, info, warn};

use crate::af_xdp::{Link, PortState};
use crate::sync::{Arc, AtomicBool, Ordering};

/// How often it looks: soon enough for a person, and next to nothing for the kernel.
const PERIOD: Duration = Duration::from_secs(1);

/// Watches all ports until `stop`.
///
/// # Errors
/// Where the system gives no thread.
pub(super) fn watch(links: Arc<Mutex<Vec<Link>>>, stop: Arc<AtomicBool>) -> io::Result<()> {
    let body = move || {
        let mut seen: Vec<[PortState; 2]> = Vec::new();
        // Pairs with the main thread's store; a look late is soon enough.
        while !stop.load(Ordering::Relaxed) {
            {
                let links = links.lock().unwrap_or_else(PoisonError::into_inner);
                seen.resize(links.len(), [PortState::Up, PortState::Up]);
                for (link, seen) in links.iter().zip(&mut seen) {
                    look(link, seen);
                }
            }
            thread::sleep(PERIOD);
        }
    };
    thread::Builder::new()
        .name("ports".to_owned())
        .spawn(body)
        .map(drop)
}

fn look(link: &Link, seen: &mut [PortState; 2]) {
    // Where the kernel cannot be asked now, it is asked again.
    let Ok(states) = link.port_states() else {
        return;
    };
    let description = link.describe();
    for ((port, seen), state) in description.ports.iter().zip(seen).zip(states) {
        if state == *seen {
            continue;
        }
        let (link, port, text) = (&description.name, &port.device, state.text());
        match state {
            PortState::Up => info!(link, port, "port is up again"),
            PortState::Down | PortState::NoCarrier => warn!(link, port, "port: {text}"),
            PortState::Gone | PortState::Replaced | PortState::Unguarded => {
                error!(link, port, "port: {text}");
            }
        }
        *seen = state;
    }
}
