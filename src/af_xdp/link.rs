//! A link on real devices, from checks to forwarding.
//!
//! ```text
//! open      check devices ─ claim ─ prepare ─ attach program (no socket in its map yet:
//!           the link does what `on_exit` says) ─ count queues ─ memory ─ sockets
//! workers   take queues and chunks, fill the fill rings
//! activate  put the sockets into the programs' maps: frames come to the workers
//! drop      sockets close and leave the maps: the link does what `on_exit` says again
//! ```
//!
//! The program is attached before queues are counted and bound, for two reasons: only then is it
//! known whether the driver takes it (zero copy needs that), and some drivers (virtio-net) add
//! receive queues with it, which without a socket would be holes in the wire.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::device::{Device, Host};
use super::error::XdpError;
use super::live::{LivePort, check_devices, open_ports, port_state, port_statistics, roll_back};
use super::options::{
    LinkDescription, LinkOptions, LinkStatistics, PortState, QueueStatistics, XdpMode, ZeroCopy,
};
use super::queue::XdpQueue;
use super::socket::Socket;
use super::sockets::{OpenSocket, open_sockets};
use super::umem::Umem;
use crate::sync::Arc;
use crate::types::PortSide;

const RING_SIZE_MIN: u32 = 64;
const RING_SIZE_MAX: u32 = 32768;

/// A link: two ports, their shared memory, and the program on both.
///
/// Dropping it does not take the program off: once its queues are gone too, the link does what
/// `on_exit` says. A link that was never activated puts its devices back as they were, unless
/// an earlier run's program was in force on them.
///
/// Field order is drop order: sockets close before their memory goes.
#[derive(Debug)]
pub struct Link {
    name: String,
    queues: Vec<LinkQueue>,
    sockets: Vec<BoundSocket>,
    ports: [LivePort; 2],
    umem: Arc<Umem>,
    host: Mutex<Host>,
    zero_copy: bool,
    notes: Vec<String>,
}

/// One queue of one port, for a worker to take.
#[derive(Debug)]
pub struct LinkQueue {
    /// The port.
    pub side: PortSide,
    /// The queue's number on its device.
    pub queue: u32,
    /// Whether frames come in here. Queues that only send are there where the other port has
    /// more receive queues than this one.
    pub receives: bool,
    /// Whether frames can leave here; else `transmit` answers that it is full.
    pub transmits: bool,
    /// The queue itself.
    pub port: XdpQueue,
}

/// A socket as the link keeps it, beside the worker that uses it.
#[derive(Debug)]
struct BoundSocket {
    side: PortSide,
    queue: u32,
    receives: bool,
    socket: Arc<Socket>,
}

impl Link {
    /// Opens a link: everything but letting frames in.
    ///
    /// # Errors
    /// When a device cannot be a port of a wire, a privilege or memory is missing, something else
    /// uses the devices, or an option asks for what they cannot do. The devices are then as they
    /// were, except where a program of an earlier run was in force: it, or its successor, stays.
    pub fn open(options: &LinkOptions, state_dir: &Path) -> Result<Self, XdpError> {
        check_options(options)?;
        let mut host = Host::open()?;
        let mut notes = Vec::new();
        let devices = [
            Device::look(&mut host, &options.inside)?,
            Device::look(&mut host, &options.outside)?,
        ];
        check_devices(&mut host, options, &devices)?;
        let mut ports = open_ports(&mut host, options, &devices, state_dir, &mut notes)?;
        let open = match open_sockets(options, &ports, &mut notes) {
            Ok(open) => open,
            Err(error) => {
                roll_back(&mut host, &mut ports);
                return Err(error);
            }
        };
        let mut link = Self {
            name: options.name.clone(),
            queues: Vec::with_capacity(open.sockets.len()),
            sockets: Vec::with_capacity(open.sockets.len()),
            ports,
            umem: Arc::new(open.umem),
            host: Mutex::new(host),
            zero_copy: open.zero_copy,
            notes,
        };
        link.adopt(open.sockets);
        Ok(link)
    }

    /// The memory that the link's frames lie in.
    #[must_use]
    pub fn umem(&self) -> Arc<Umem> {
        Arc::clone(&self.umem)
    }

    /// The link's queues, for the workers; the second call finds none.
    #[must_use]
    pub fn take_queues(&mut self) -> Vec<LinkQueue> {
        std::mem::take(&mut self.queues)
    }

    /// Lets frames in: the last step, when workers have filled the fill rings.
    ///
    /// # Errors
    /// When the kernel refuses a socket for a map; frames of that port go on as `on_exit` says.
    pub fn activate(&mut self) -> Result<(), XdpError> {
        // Slot 0 is what the program takes for "a gateway runs": filled last, so that no frame
        // finds slot 0 filled and its own empty.
        for bound in self.sockets.iter().rev().filter(|bound| bound.receives) {
            let port = &mut self.ports[bound.side.index()];
            port.program.set_socket(bound.queue, &bound.socket)?;
        }
        for port in &mut self.ports {
            port.keep();
        }
        Ok(())
    }

    /// Lets no more frames in: the link does what `on_exit` says, while workers end what they have.
    ///
    /// # Errors
    /// When the kernel refuses to empty a map; its sockets leave it when they close.
    pub fn deactivate(&mut self) -> Result<(), XdpError> {
        // Slot 0 first, so that no frame finds slot 0 filled and its own empty.
        for bound in self.sockets.iter().filter(|bound| bound.receives) {
            let port = &mut self.ports[bound.side.index()];
            port.program.clear_socket(bound.queue)?;
        }
        Ok(())
    }

    /// What the kernel counts about this link.
    ///
    /// # Errors
    /// When a device or a socket cannot be asked, because it is gone for instance.
    pub fn statistics(&self) -> Result<LinkStatistics, XdpError> {
        let mut queues = Vec::with_capacity(self.sockets.len());
        for bound in &self.sockets {
            let counted = bound.socket.statistics().map_err(|e| {
                XdpError::system("reading the statistics of a socket", "CAP_NET_RAW", e)
            })?;
            queues.push(QueueStatistics {
                side: bound.side,
                queue: bound.queue,
                rx_dropped: counted.rx_dropped,
                rx_invalid_descriptors: counted.rx_invalid_descriptors,
                tx_invalid_descriptors: counted.tx_invalid_descriptors,
                rx_ring_full: counted.rx_ring_full,
                rx_fill_ring_empty: counted.rx_fill_ring_empty,
                tx_ring_empty: counted.tx_ring_empty,
            });
        }
        let mut host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        let [inside, outside] = &self.ports;
        let ports = [
            port_statistics(&mut host, &inside.device.name)?,
            port_statistics(&mut host, &outside.device.name)?,
        ];
        Ok(LinkStatistics { queues, ports })
    }

    /// What has become of its ports, by [`PortSide::index`].
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn port_states(&self) -> Result<[PortState; 2], XdpError> {
        let mut host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        let [inside, outside] = &self.ports;
        Ok([
            port_state(&mut host, inside)?,
            port_state(&mut host, outside)?,
        ])
    }

    /// How the link turned out.
    #[must_use]
    pub fn describe(&self) -> LinkDescription {
        let [inside, outside] = &self.ports;
        LinkDescription {
            name: self.name.clone(),
            ports: [inside.describe(), outside.describe()],
            zero_copy: self.zero_copy,
            pages: self.umem.pages(),
            notes: self.notes.clone(),
        }
    }

    /// Shares each socket between the link and the queue that a worker takes.
    fn adopt(&mut self, sockets: Vec<OpenSocket>) {
        for open in sockets {
            let OpenSocket {
                plan,
                socket,
                rings,
            } = open;
            let side = plan.side;
            let socket = Arc::new(socket);
            let port = XdpQueue::new(
                rings,
                Arc::clone(&socket),
                Arc::clone(&self.umem),
                plan.transmits,
            );
            self.sockets.push(BoundSocket {
                side,
                queue: plan.queue,
                receives: plan.receives,
                socket,
            });
            self.queues.push(LinkQueue {
                side,
                queue: plan.queue,
                receives: plan.receives,
                transmits: plan.transmits,
                port,
            });
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let host = self.host.get_mut().unwrap_or_else(PoisonError::into_inner);
        roll_back(host, &mut self.ports);
    }
}

fn check_options(options: &LinkOptions) -> Result<(), XdpError> {
    let wrong = |option, value, expected| {
        Err(XdpError::Option {
            option,
            value,
            expected,
        })
    };
    if !matches!(options.frame_size, 2048 | 4096) {
        return wrong("frame_size", options.frame_size, "it is 2048 or 4096");
    }
    if !(RING_SIZE_MIN..=RING_SIZE_MAX).contains(&options.ring_size)
        || !options.ring_size.is_power_of_two()
    {
        return wrong(
            "ring_size",
            options.ring_size,
            "it is a power of two from 64 to 32768",
        );
    }
    if options.zero_copy == ZeroCopy::Require && options.xdp_mode == XdpMode::Generic {
        return Err(XdpError::ZeroCopyGeneric {
            device: options.inside.clone(),
        });
    }
    Ok(())
}
